"""What the wheel and the source distribution hold: a module or template that is left out fails on workers alone.

And how `make` installs the package.
"""

from __future__ import annotations

import os
import subprocess
import sys
import tarfile
import zipfile

import pytest

from tests.drawn.places import ROOT


def sources(*suffixes: str) -> set[str]:
    paths = [path for package in ("pipelines", "trainer") for path in (ROOT / package).rglob("*")]
    return {str(path.relative_to(ROOT)) for path in paths if path.suffix in suffixes}


@pytest.fixture(scope="module")
def distributions(tmp_path_factory):
    """The folder of the wheel and of the source distribution, built without the engine: no compiler is found."""
    folder = tmp_path_factory.mktemp("dist")
    source = tmp_path_factory.mktemp("source")
    for name in (
        "constraints.txt",
        "LICENSE",
        "MANIFEST.in",
        "README.md",
        "pyproject.toml",
        "setup.py",
        "pipelines",
        "trainer",
    ):
        os.symlink(ROOT / name, source / name)
    done = subprocess.run(
        [sys.executable, "-m", "build", "--no-isolation", "--outdir", str(folder), str(source)],
        env=os.environ | {"CC": "no-compiler", "CXX": "no-compiler"},
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0, done.stdout + done.stderr
    return folder


def test_the_wheel_holds_every_module_and_template(distributions):
    (wheel,) = distributions.glob("*.whl")
    with zipfile.ZipFile(wheel) as archive:
        names = set(archive.namelist())
    assert sources(".py", ".j2") <= names
    assert not {name for name in names if name.startswith(("tests/", "benchmarks/", "docs/"))}


def test_the_source_distribution_holds_the_engine_and_what_it_is_built_from(distributions):
    (sdist,) = distributions.glob("*.tar.gz")
    with tarfile.open(sdist) as archive:
        names = {name.partition("/")[2] for name in archive.getnames()}
    assert sources(".py", ".j2", ".cpp", ".h") <= names
    assert {"setup.py", "pyproject.toml", "README.md", "LICENSE"} <= names


def test_make_lets_python_keep_what_it_has_compiled_since_pip_compiles_nothing(tmp_path):
    """Many images of containers forbid it, where every process would compile TensorFlow again."""
    (tmp_path / "told").write_text(f"include {ROOT}/Makefile\ntold: ; @env\n")
    done = subprocess.run(
        ["make", "--no-print-directory", "-C", str(ROOT), "-f", str(tmp_path / "told"), "told"],
        env=os.environ | {"PYTHONDONTWRITEBYTECODE": "1", "MAKEFLAGS": ""},
        capture_output=True,
        text=True,
    )
    assert "PATH=" in done.stdout, done.stderr
    assert "PYTHONDONTWRITEBYTECODE" not in done.stdout
