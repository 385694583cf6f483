# syntax=docker/dockerfile:1
# Two images of the same code and the same versions:
#
#   docker build --target beam    --tag deeplab-beam .       workers of the Beam jobs (--sdk_container_image)
#   docker build --target trainer --tag deeplab-trainer .    the `deeplab` command, for machines with an NVIDIA GPU
#   docker run --gpus all --volume "$PWD/out:/out" deeplab-trainer train --records /out/records --output /out/model
#
# pydensecrf2 is published as source only; compiling it here, once, spares every worker a minute at its start.

FROM apache/beam_python3.11_sdk:2.77.0 AS beam-wheels
COPY constraints.txt /build/
RUN pip wheel --no-cache-dir --no-deps --constraint /build/constraints.txt --wheel-dir /wheels pydensecrf2

# The entry point, which Beam's runners call, stays the base image's.
FROM apache/beam_python3.11_sdk:2.77.0 AS beam
COPY --from=beam-wheels /wheels /wheels
COPY constraints.txt MANIFEST.in README.md setup.py /src/
COPY trainer /src/trainer
COPY pipelines /src/pipelines
RUN pip install --no-cache-dir --constraint /src/constraints.txt --find-links /wheels /src \
    && python -c "import pipelines.prepare, pipelines.segment" \
    && rm -r /src /wheels

FROM python:3.11-bookworm AS trainer-wheels
COPY constraints.txt /build/
RUN pip wheel --no-cache-dir --no-deps --constraint /build/constraints.txt --wheel-dir /wheels pydensecrf2

# CUDA and cuDNN come as packages with the extra `gpu`; the machine adds the driver alone.
FROM python:3.11-slim-bookworm AS trainer
COPY --from=trainer-wheels /wheels /wheels
COPY constraints.txt MANIFEST.in README.md setup.py /src/
COPY trainer /src/trainer
COPY pipelines /src/pipelines
RUN pip install --no-cache-dir --constraint /src/constraints.txt --find-links /wheels "/src[gpu]" \
    && deeplab --version \
    && rm -r /src /wheels \
    && useradd --create-home --uid 1000 deeplab
USER 1000
WORKDIR /home/deeplab
ENTRYPOINT ["deeplab"]
