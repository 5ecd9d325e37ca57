"""Write what a folder with an image's files consists of, as CycloneDX, with Syft.

The time and the random number that Syft puts into it are taken out: two builds of one commit
have the same list.

    python sbom.py SYFT FOLDER OUT
"""

import json
import os
import subprocess
import sys
from pathlib import Path


def write(syft: Path, folder: Path, out: Path) -> None:
    """Write OUT; raise subprocess.CalledProcessError where Syft fails."""
    command = [
        *(str(syft), "scan", f"dir:{folder}", f"--base-path={folder}"),
        *("--source-name=vertex-torchserve", "--quiet", "--output=cyclonedx-json"),
    ]
    quiet = os.environ | {"SYFT_CHECK_FOR_APP_UPDATE": "false"}
    done = subprocess.run(command, check=True, stdout=subprocess.PIPE, timeout=600, env=quiet)
    document = json.loads(done.stdout)
    document.pop("serialNumber", None)
    document["metadata"].pop("timestamp", None)
    out.parent.mkdir(parents=True, exist_ok=True)
    out.write_text(json.dumps(document, indent=1, sort_keys=True) + "\n")
    for each in (out, out.parent):
        os.utime(each, (0, 0))


if __name__ == "__main__":
    write(*map(Path, sys.argv[1:]))
