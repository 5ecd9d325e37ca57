# What Cloud Build's steps run in: the locked packages, Java, a Docker client, this repository.
ARG BASE=debian:bookworm-slim

FROM ${BASE}
# The slim base has no manual pages, and Java's package insists on their folder.
RUN mkdir -p /usr/share/man/man1 \
 && apt-get update \
 && apt-get install --yes --no-install-recommends python3-venv python3-pip openjdk-17-jre-headless make git curl ca-certificates \
 && rm -rf /var/lib/apt/lists/*
RUN python3 -m venv /opt/venv
ENV PATH=/opt/venv/bin:$PATH PYTHONUNBUFFERED=1 PYTHONDONTWRITEBYTECODE=1
COPY requirements/torch.lock /tmp/torch.lock
ARG TORCH
ARG TORCH_INDEX=https://download.pytorch.org/whl/cpu
RUN if test -n "${TORCH}"; then set -- ${TORCH}; else set -- --require-hashes --requirement /tmp/torch.lock; fi \
 && pip install --quiet --no-cache-dir --no-deps --index-url ${TORCH_INDEX} "$@"
COPY requirements/dev.lock /tmp/dev.lock
RUN pip install --quiet --no-cache-dir --no-deps --require-hashes --requirement /tmp/dev.lock
# The builder's own client, which the step lays beside these files.
COPY docker-client /usr/bin/docker
WORKDIR /workspace
