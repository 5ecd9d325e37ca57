"""Writes the SBOM of a folder with an image's files, in the format CycloneDX, with Syft.

Syft's timestamp and random serial number are removed, so that two builds of a commit are equal.

    python sbom.py SYFT FOLDER OUT
"""

import json
import os
import subprocess
import sys
from pathlib import Path


def write(syft: Path, folder: Path, out: Path) -> None:
    """Write the SBOM of `folder` to `out`; raise subprocess.CalledProcessError if Syft fails."""
    command = [
        *(str(syft), "scan", f"dir:{folder}", f"--base-path={folder}"),
        *("--source-name=vertex-torchserve", "--quiet", "--output=cyclonedx-json"),
    ]
    env = os.environ | {"SYFT_CHECK_FOR_APP_UPDATE": "false"}
    completed = subprocess.run(command, check=True, stdout=subprocess.PIPE, timeout=600, env=env)
    document = json.loads(completed.stdout)
    document.pop("serialNumber", None)
    document["metadata"].pop("timestamp", None)
    out.parent.mkdir(parents=True, exist_ok=True)
    out.write_text(json.dumps(document, indent=1, sort_keys=True) + "\n")
    for path in (out, out.parent):
        os.utime(path, (0, 0))


if __name__ == "__main__":
    write(*map(Path, sys.argv[1:]))
