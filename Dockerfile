# syntax=docker/dockerfile:1
# Two images of the same code and the same versions:
#
#   docker build --target beam    --tag deeplab-beam .       workers of the Beam jobs (--sdk_container_image)
#   docker build --target trainer --tag deeplab-trainer .    the `deeplab` command, for machines with an NVIDIA GPU
#   docker run --gpus all --volume "$PWD/out:/out" deeplab-trainer train --records /out/records --output /out/model
#
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

# CUDA and cuDNN come as packages with the extra `gpu`; the machine adds the driver alone.
FROM python:3.11-slim-bookworm AS trainer
COPY --from=wheel /wheels /wheels
COPY constraints.txt /wheels/
RUN pip install --no-cache-dir --constraint /wheels/constraints.txt "$(echo /wheels/*.whl)[gpu]" \
    && deeplab --version \
    && rm -r /wheels \
    && useradd --create-home --uid 1000 deeplab
USER 1000
WORKDIR /home/deeplab
ENTRYPOINT ["deeplab"]
