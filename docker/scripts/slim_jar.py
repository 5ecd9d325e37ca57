"""Writes a small model-server.jar for the image, and links to Debian's Java libraries beside it.

TorchServe's model-server.jar of 2024 has 45 MB. It holds everything that was on the class path of its
build: test frameworks, Groovy, Ant, jQuery, and a Netty of 2020. The small jar holds only TorchServe's
code and the libraries that Debian lacks. The other libraries are links to Debian's jars, so that
Debian's security updates apply to the server.

TorchServe's gRPC servers are not in the jar, so that it is patched not to start them.

    python slim_jar.py MODEL_SERVER_JAR DEBIAN_JARS OUT
"""

import platform
import sys
import zipfile
from pathlib import Path

from serving.bytecode_patches import NO_GRPC, apply_patch

KEPT = (
    "org/pytorch/serve/",
    "META-INF/MANIFEST.MF",
    "META-INF/LICENSE",
    "META-INF/NOTICE",
    # Debian's version 1.33 instantiates any class that a document names (CVE-2022-1471).
    "org/yaml/snakeyaml/",
    # TorchServe's logging interface, and its binding to log4j.
    "org/slf4j/",
    "org/apache/logging/slf4j/",
    # Guava, two of its forty packages: the names of workflow threads. Workflows cannot be registered.
    "com/google/common/base/",
    "com/google/common/util/concurrent/ThreadFactoryBuilder",
    # Debian has no package of it.
    "io/prometheus/client/",
)
"""Prefixes of the paths that are kept."""
DEBIAN_JARS = (
    "netty-buffer",
    "netty-codec",
    "netty-codec-http",
    "netty-common",
    "netty-handler",
    "netty-resolver",
    "netty-transport",
    "netty-transport-native-epoll",
    "netty-transport-native-kqueue",
    "netty-transport-native-unix-common",
    "jctools-core",
    "gson",
    "commons-cli",
    "commons-compress",
    "commons-io",
)
"""Jars in /usr/share/java. Log4j is copied instead: its package also depends on MongoDB's client."""
NATIVE = "META-INF/native/libnetty_transport_native_epoll_{machine}.so"
"""The library that Debian's Netty lacks; its C code matches the jar's Netty."""
EPOCH = (1980, 1, 1, 0, 0, 0)


def write(jar: Path, debian_jars: Path, out: Path) -> None:
    """Write the small jar, Netty's native library and links to Debian's jars into the new folder `out`."""
    out.mkdir(parents=True)
    with zipfile.ZipFile(jar) as original, zipfile.ZipFile(out / jar.name, "w") as slim:
        for name in sorted(original.namelist()):
            if name.startswith(KEPT) and not name.endswith("/"):
                entry = zipfile.ZipInfo(name, EPOCH)
                content = original.read(name)
                if name == NO_GRPC.class_file:
                    content = apply_patch(NO_GRPC, content, jar)
                slim.writestr(entry, content, zipfile.ZIP_DEFLATED)
        machine = {"aarch64": "aarch_64"}.get(platform.machine(), platform.machine())
        native = NATIVE.format(machine=machine)
        (out / Path(native).name).write_bytes(original.read(native))
    for name in DEBIAN_JARS:
        (out / f"{name}.jar").symlink_to(debian_jars / f"{name}.jar")


if __name__ == "__main__":
    write(*map(Path, sys.argv[1:]))
