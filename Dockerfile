# syntax=docker/dockerfile:1
# Two images of the same code and the same versions:
#
#   docker build --target beam    --tag deeplab-beam:VERSION .       workers of the Beam jobs (--sdk_container_image)
#   docker build --target trainer --tag deeplab-trainer:VERSION .    the `deeplab` command, for machines with NVIDIA GPUs
#   docker run --gpus all --volume "$PWD/out:/out" deeplab-trainer:VERSION train --records /out/records --output /out/model
#
# VERSION is that of `deeplab --version`, which `deeplab submit` compares; docs/jobs.md has registries and clouds.
# The wheel, with the CRF's engine in it, is compiled once; neither image needs a compiler. The engine picks the code
# for the processor it finds itself on, so the wheel may be built on any x86-64 machine, or on the ARM machine it is for.

FROM python:3.11-bookworm AS wheel
COPY constraints.txt MANIFEST.in README.md setup.py pyproject.toml /src/
COPY trainer /src/trainer
COPY pipelines /src/pipelines
RUN pip wheel --no-cache-dir --no-deps --wheel-dir /wheels /src

# The entry point, which Beam's runners call, stays the base image's.
FROM apache/beam_python3.11_sdk:2.77.0 AS beam
COPY --from=wheel /wheels /wheels
COPY constraints.txt /wheels/
RUN pip install --no-cache-dir --constraint /wheels/constraints.txt /wheels/*.whl \
    && python -c "import pipelines.prepare.job, pipelines.segment.job; from pipelines.crf.engine import builds; builds.load()" \
    && rm -r /wheels

# CUDA and cuDNN come as packages with the extras, for TensorFlow and for JAX, under which several hosts train; the
# machine adds the driver alone. tini is the first process, for
# the kernel keeps SIGTERM from a first process that has no handler of its own, such as one that is still starting.
FROM python:3.11-slim-bookworm AS trainer
RUN apt-get update \
    && apt-get install --yes --no-install-recommends tini \
    && rm -r /var/lib/apt/lists/*
COPY --from=wheel /wheels /wheels
COPY constraints.txt /wheels/
RUN pip install --no-cache-dir --constraint /wheels/constraints.txt "$(echo /wheels/*.whl)[gpu,jax-gpu]" \
    && deeplab --version \
    && rm -r /wheels \
    && useradd --create-home --uid 1000 deeplab
USER 1000
WORKDIR /home/deeplab
ENTRYPOINT ["tini", "--", "deeplab"]
