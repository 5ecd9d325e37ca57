# The image of Cloud Build's steps: the locked packages, Java and a Docker client. The sources are mounted.
ARG BASE=debian:bookworm-slim

FROM ${BASE}
# Java's package fails without this folder, which the slim base image lacks.
RUN mkdir -p /usr/share/man/man1 \
 && apt-get update \
 && apt-get install --yes --no-install-recommends python3-venv python3-pip openjdk-17-jre-headless make git curl ca-certificates \
 && rm -rf /var/lib/apt/lists/*
RUN python3 -m venv /opt/venv
ENV PATH=/opt/venv/bin:$PATH PYTHONUNBUFFERED=1 PYTHONDONTWRITEBYTECODE=1
COPY requirements/torch.lock /tmp/torch.lock
RUN pip install --quiet --no-cache-dir --no-deps --index-url https://download.pytorch.org/whl/cpu --require-hashes --requirement /tmp/torch.lock
COPY requirements/dev.lock /tmp/dev.lock
RUN pip install --quiet --no-cache-dir --no-deps --require-hashes --requirement /tmp/dev.lock
# The client of the docker builder image: the build step copies it into the build context.
COPY docker-client /usr/bin/docker
WORKDIR /workspace
