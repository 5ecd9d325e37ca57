"""Lays out what TorchServe's Java consists of in the image: its own code, and Debian's libraries.

model-server.jar of 2024 is 45 MB of everything that was on the class path when it was built:
test frameworks, Groovy, Ant, jQuery, and a Netty of 2020. What TorchServe itself runs is kept;
libraries that Debian maintains take the place of those in the jar, as links, so that their
updates reach the server.

    python jars.py MODEL_SERVER_JAR DEBIANS_JARS OUT
"""

import platform
import sys
import zipfile
from pathlib import Path

KEPT = (
    "org/pytorch/serve/",
    "META-INF/MANIFEST.MF",
    "META-INF/LICENSE",
    "META-INF/NOTICE",
    # Debian has 1.33 of it, which makes any class that a document names (CVE-2022-1471).
    "org/yaml/snakeyaml/",
    # The interface that TorchServe logs through, and log4j's end of it.
    "org/slf4j/",
    "org/apache/logging/slf4j/",
    # A name for the threads of workflows, which nobody can register: two packages of Guava's forty.
    "com/google/common/base/",
    "com/google/common/util/concurrent/ThreadFactoryBuilder",
    # Debian has none of it.
    "io/prometheus/client/",
)
"""Paths in the jar, and what begins with them."""
DEBIANS = (
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
"""Jars in /usr/share/java. Log4j is copied: its package wants MongoDB's client besides."""
NATIVE = "META-INF/native/libnetty_transport_native_epoll_{machine}.so"
"""Debian's Netty comes without this one: its C code is that of the jar's."""
EPOCH = (1980, 1, 1, 0, 0, 0)


def lay_out(jar: Path, debians: Path, out: Path) -> None:
    """Write OUT/model-server.jar, Netty's native library, and links to Debian's jars."""
    out.mkdir(parents=True)
    with zipfile.ZipFile(jar) as all_of_it, zipfile.ZipFile(out / jar.name, "w") as kept:
        for name in sorted(all_of_it.namelist()):
            if name.startswith(KEPT) and not name.endswith("/"):
                entry = zipfile.ZipInfo(name, EPOCH)
                kept.writestr(entry, all_of_it.read(name), zipfile.ZIP_DEFLATED)
        machine = {"aarch64": "aarch_64"}.get(platform.machine(), platform.machine())
        native = NATIVE.format(machine=machine)
        (out / Path(native).name).write_bytes(all_of_it.read(native))
    for name in DEBIANS:
        (out / f"{name}.jar").symlink_to(debians / f"{name}.jar")


if __name__ == "__main__":
    lay_out(*map(Path, sys.argv[1:]))
