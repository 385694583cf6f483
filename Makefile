# `make demo` runs the whole road on a drawn set, `make test` the tests. Both make .venv themselves, from nothing,
# and use it again until constraints.txt or setup.py change; the CRF's engine is compiled again when its source changes.

PYTHON ?= $(shell for python in python3 python3.13 python3.12 python3.11; do \
	$$python -c 'import sys; sys.exit(not (3, 11) <= sys.version_info[:2] <= (3, 13))' 2>/dev/null \
	&& echo $$python && break; done)
VENV := .venv
STAMP := $(VENV)/.installed
ENGINE := $(VENV)/.engine
SOURCE := $(wildcard pipelines/crf/engine/*.cpp pipelines/crf/engine/*.h)
BEAM := $(shell sed -n 's/^apache-beam==//p' constraints.txt)
ENGINES ?= $(or $(XDG_CACHE_HOME),$(HOME)/.cache)/deeplab-engines
# So that what was fetched for other versions is not taken for these.
FETCHED := $(ENGINES)/.fetched-$(BEAM)-$(shell cat tests/engines/*.xml | cksum | cut -d ' ' -f 1)
# Python compiles a module when it is first imported, which is faster than pip's compiling all of them; where it may not
# keep what it has compiled, every process does so again: TensorFlow takes 10 s to import instead of 4.
unexport PYTHONDONTWRITEBYTECODE

.PHONY: demo test test-slow test-engines test-images wheel lint docs clean

demo: $(ENGINE)
	$(VENV)/bin/deeplab demo --output out/demo

test: $(ENGINE) lint
	$(VENV)/bin/python -m pytest -n 3 --dist loadfile --max-worker-restart 0

test-slow: $(ENGINE)
	$(VENV)/bin/python -m pytest -n 3 --dist loadfile --max-worker-restart 0 -m slow

test-engines: $(ENGINE) $(FETCHED)
	DEEPLAB_ENGINES=$(ENGINES) $(VENV)/bin/python -m pytest -m engines tests/engines

test-images: $(ENGINE)
	$(VENV)/bin/python -m pytest -m images

# docs/engines.md says what this fetches, from where, and how to name mirrors. Both clients check sums.
$(FETCHED):
	@for tool in java mvn go; do command -v $$tool >/dev/null || { \
		echo "$$tool is needed (Debian: apt install openjdk-17-jre-headless maven; Go 1.26: go.dev/dl)"; exit 1; }; done
	for engine in flink spark; do rm -rf $(ENGINES)/$$engine; \
		mvn --batch-mode --quiet --strict-checksums --file tests/engines/$$engine.xml dependency:copy-dependencies \
		-DincludeScope=runtime -DoutputDirectory=$(ENGINES)/$$engine || exit 1; done
	GOBIN=$(ENGINES)/bin go install github.com/apache/beam/sdks/v2/go/cmd/prism@v$(BEAM) \
		github.com/apache/beam/sdks/v2/python/container@v$(BEAM)
	touch $(FETCHED)

wheel: $(STAMP)
	$(VENV)/bin/python -m pip wheel --quiet --no-deps --wheel-dir dist .

lint: $(STAMP)
	$(VENV)/bin/ruff check .
	$(VENV)/bin/ruff format --check .

docs: $(STAMP)
	$(VENV)/bin/python docs/options.py > docs/options.md
	PYTHONPATH=. $(VENV)/bin/python docs/zoo.py > docs/zoo.md
	$(VENV)/bin/python docs/charts.py

$(STAMP): constraints.txt setup.py
	@test -n "$(PYTHON)" || { echo "Python 3.11 to 3.13 is needed; name one with PYTHON=..."; exit 1; }
	@command -v c++ >/dev/null || { echo "a C++ compiler is needed for the CRF (Debian: apt install g++)"; exit 1; }
	rm -rf $(VENV)
	$(PYTHON) -m venv $(VENV)
	$(VENV)/bin/python -m pip install --quiet --disable-pip-version-check --no-compile --constraint constraints.txt --editable '.[test]'
	touch $(STAMP)

# The installation compiles it too, so a new environment needs it only where the source has changed since.
$(ENGINE): $(STAMP) $(SOURCE)
	test -z "$$(find $(SOURCE) -newer $(STAMP))" || $(VENV)/bin/python setup.py --quiet build_ext --inplace
	touch $(ENGINE)

clean:
	rm -rf $(VENV) out build *.egg-info .pytest_cache .ruff_cache pipelines/crf/engine/*.so
