# CPU by default. With CUDA:
#   docker build -t ltml_mm:cuda \
#     --build-arg BASE=nvidia/cuda:12.8.1-runtime-ubuntu24.04 .
#   docker run --gpus all -v "$PWD:/work" ltml_mm:cuda train ltml_custom \
#     --data data/my_data
ARG BASE=python:3.12-slim-bookworm
FROM ${BASE}

# OpenCV needs the libraries, CUDA's base images a Python.
# hadolint ignore=DL3008
RUN apt-get update \
    && apt-get install -y --no-install-recommends \
        libgl1 libglib2.0-0 python3 python3-pip python3-venv \
    && rm -rf /var/lib/apt/lists/*

ENV PATH=/opt/ltml/bin:$PATH
COPY . /opt/ltml_mm
RUN python3 -m venv /opt/ltml \
    && pip install --no-cache-dir "/opt/ltml_mm[onedl]"

# Files in /work belong to this user; --user "$(id -u)" takes another.
USER 1000
WORKDIR /work
ENV HOME=/tmp
ENTRYPOINT ["ltml"]
CMD ["--help"]
