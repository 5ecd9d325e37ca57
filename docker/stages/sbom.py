"""Write what a folder with an image's files consists of, as CycloneDX, with Syft.

The time and the random number that Syft puts into it are taken out: two builds of one commit
have the same list.

    python sbom.py SYFT FOLDER OUT
"""

import argparse
import json
import os
import subprocess
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


def main() -> None:
    """Run the command line."""
    parser = argparse.ArgumentParser(description=__doc__)
    for name in ("syft", "folder", "out"):
        parser.add_argument(name, type=Path)
    args = parser.parse_args()
    write(args.syft, args.folder, args.out)


if __name__ == "__main__":
    main()
