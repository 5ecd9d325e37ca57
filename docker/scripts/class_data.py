"""Writes Java's class data archive for TorchServe: Java maps it at its start, and does not parse and check classes.

    python class_data.py JRE JARS OUT

It has all classes in the folder of jars, and those of the JRE that its own list names. A list of the classes that
a run loads would be shorter, but differ from run to run.
"""

import subprocess
import sys
import tempfile
import zipfile
from pathlib import Path

MAX_DUMPS = 8
HEADER_BYTES = 0x1000
"""Of the archive; it has checksums, which Java does not compare unless -XX:+VerifySharedSpaces is set."""


def list_classes(jre: Path, jars: list[Path]) -> list[str]:
    """Return the names of the classes, with slashes."""
    names = set()
    for jar in jars:
        with zipfile.ZipFile(jar) as contents:
            names |= {name for name in contents.namelist() if name.endswith(".class")}
    classes = {name.removesuffix(".class") for name in names if not name.startswith("META-INF/")}
    return [*(jre / "lib/classlist").read_text().splitlines(), *sorted(classes)]


def run_java(jre: Path, jars: list[Path], *options: str) -> None:
    """Run Java on one CPU and without its compilers, so that what it archives has the same order each time."""
    java = ["taskset", "--cpu-list", "0", str(jre / "bin/java"), "-Xint", "-XX:+UseSerialGC"]
    subprocess.run([*java, "-cp", ":".join(map(str, jars)), *options], check=True)


def dump(jre: Path, jars: list[Path], classes: list[str]) -> bytearray:
    """Return an archive of the classes; those that lack a library are left out."""
    with tempfile.TemporaryDirectory() as folder:
        listed, archive = Path(folder, "classes"), Path(folder, "archive")
        listed.write_text("\n".join(classes))
        files = (f"-XX:SharedClassListFile={listed}", f"-XX:SharedArchiveFile={archive}")
        run_java(jre, jars, "-Xshare:dump", "-Xlog:disable", *files)
        return bytearray(archive.read_bytes())


def clear_differences(archive: bytearray, other: bytearray) -> bool:
    """Clear what differs in two archives of the same order; return False if the order differs.

    It is the checksums in the header, and the address of one function of Java, which Linux loads elsewhere each
    time, in counters that are archived by mistake and never read.
    """
    if len(archive) != len(other):
        return False
    body, other_body = (memoryview(each)[HEADER_BYTES:].cast("Q") for each in (archive, other))
    differing = _find_differences(body, other_body)
    if len({body[index] for index in differing}) > 1:
        return False
    for index in differing:
        body[index] = 0
    header, other_header = (memoryview(each)[:HEADER_BYTES].cast("I") for each in (archive, other))
    for index in _find_differences(header, other_header):
        header[index] = 0
    return True


def _find_differences(words: memoryview, others: memoryview) -> list[int]:
    return [i for i, pair in enumerate(zip(words, others, strict=True)) if pair[0] != pair[1]]


def write_reproducible(jre: Path, jars: list[Path], out: Path) -> None:
    """Write the first archive that is like an earlier one; about one in four has another order."""
    classes, archives = list_classes(jre, jars), list[bytearray]()
    for _ in range(MAX_DUMPS):
        archive = dump(jre, jars, classes)
        if any(clear_differences(archive, other) for other in archives):
            out.write_bytes(archive)
            return
        archives.append(archive)
    sys.exit(f"class_data: no two of {MAX_DUMPS} archives of the same classes are alike")


def main() -> None:
    """Write the archive, and check that Java accepts it."""
    jre, folder, out = map(Path, sys.argv[1:])
    jars = sorted(folder.glob("*.jar"))
    write_reproducible(jre, jars, out)
    run_java(jre, jars, "-Xshare:on", f"-XX:SharedArchiveFile={out}", "-version")


if __name__ == "__main__":
    main()
