# TorchServe behind nginx, with one archive baked in. From what changes least to what changes most.
#   make build IMAGE=name:tag

ARG BASE=debian:bookworm-slim

# A JRE with the nine modules that TorchServe uses: 50 MB instead of 190.
FROM ${BASE} AS jre
# The slim base has no manual pages, and this package insists on their folder.
RUN mkdir -p /usr/share/man/man1 \
 && apt-get update \
 && apt-get install --yes --no-install-recommends openjdk-17-jdk-headless binutils \
 && rm -rf /var/lib/apt/lists/*
RUN jlink --output /opt/jre --strip-debug --no-man-pages --no-header-files --compress=2 \
      --add-modules java.base,java.desktop,java.logging,java.management,java.naming,java.sql,java.xml,jdk.unsupported,jdk.crypto.ec \
 && /opt/jre/bin/java -Xshare:dump -Xlog:disable -XX:+UseSerialGC

# The Python packages, installed by a pip that stays in this stage.
FROM ${BASE} AS packages
RUN apt-get update \
 && apt-get install --yes --no-install-recommends python3-venv python3-pip binutils \
 && rm -rf /var/lib/apt/lists/*
RUN python3 -m venv --without-pip /opt/venv
# torch alone, from the index of its CPU builds. What only a compiler, a debugger or its own tests
# read is left out: 90 MB of it are symbols that the loader does not need.
ARG TORCH=torch==2.13.0
ARG TORCH_INDEX=https://download.pytorch.org/whl/cpu
RUN pip --python /opt/venv/bin/python install --no-cache-dir --no-compile --no-deps --index-url ${TORCH_INDEX} ${TORCH} \
 && cd /opt/venv/lib/python3.11/site-packages/torch \
 && rm -rf include share/cmake test lib/*.a lib/libtorchbind_test.so lib/libjitbackend_test.so \
           lib/libbackend_with_compiler.so lib/libaoti_custom_ops.so \
 && find bin -type f ! -name torch_shm_manager -delete \
 && strip --strip-unneeded lib/*.so
COPY requirements/serve.lock /tmp/serve.lock
RUN pip --python /opt/venv/bin/python install --no-cache-dir --no-compile --no-deps --require-hashes --requirement /tmp/serve.lock \
 && cd /opt/venv/lib/python3.11/site-packages \
 && find numpy sympy networkx mpmath setuptools -type d -name tests -prune -exec rm -rf {} +
# What this model's own handler needs; torch stays what it is.
ARG EXTRAS
RUN test -z "${EXTRAS}" || pip --python /opt/venv/bin/python install --no-cache-dir --extra-index-url ${TORCH_INDEX} ${TORCH} ${EXTRAS}
# Bytecode of what serving imports; the greater part of torch, and sympy, it never does.
RUN /opt/venv/bin/python -c 'import torch.fx, numpy, yaml, PIL.Image; PIL.Image.init(); import PIL.ImageFilter, PIL.ImageOps, psutil, google.cloud.storage; import ts.model_service_worker, ts.torch_handler.base_handler'
# Netty's native library out of TorchServe's jar: Java would unpack it into /tmp, which may be noexec.
RUN cd /tmp && python3 -m zipfile -e /opt/venv/lib/python3.11/site-packages/ts/frontend/model-server.jar jar \
 && mkdir /opt/netty && cp jar/META-INF/native/libnetty_transport_native_epoll_*.so /opt/netty/ && rm -rf jar

FROM ${BASE}
# Debian's Python without pip, and nginx with the module that reads a body within a deadline.
RUN apt-get update \
 && apt-get install --yes --no-install-recommends python3 nginx libnginx-mod-http-lua \
 && rm -rf /var/lib/apt/lists/* /var/cache/apt /var/log/* /var/www /etc/nginx/sites-enabled
COPY --from=jre /opt/jre /opt/jre
COPY --from=packages /opt/netty /opt/netty
COPY --from=packages /opt/venv /opt/venv
COPY serving /app/serving
# Where AIP_STORAGE_URI is fetched from.
COPY storage /app/storage
# What a stock archive gets beside its own handler.
COPY handler/__init__.py handler/envelope.py handler/errors.py /app/handler/
COPY docker /app/docker
ARG ARCHIVE=build/model-store/digits.mar
COPY ${ARCHIVE} /opt/model-store/
RUN python3 -m compileall -q /app

ENV JAVA_HOME=/opt/jre \
    PYTHONPATH=/app \
    PYTHONUNBUFFERED=1 \
    PYTHONDONTWRITEBYTECODE=1
USER 10001
WORKDIR /tmp
EXPOSE 8080
STOPSIGNAL SIGTERM
ENTRYPOINT ["/opt/venv/bin/python", "-m", "docker.entrypoint"]
