"""Start TorchServe as the samples do, with the task of an archive of ours, until it is ended."""

import argparse
import json
import os
import re
import subprocess
import sys
import tempfile
import zipfile
from pathlib import Path

from serving import java
from serving.torchserve import find_free_port

HANDLER = Path(__file__).with_name("stock_handler.py")
MANIFEST = "MAR-INF/MANIFEST.json"
CONFIG = """inference_address=http://127.0.0.1:{port}
management_address=http://127.0.0.1:{management}
metrics_address=http://127.0.0.1:{metrics}
grpc_inference_port={grpc}
grpc_management_port={grpc_management}
service_envelope=json
"""
"""The samples' own: addresses and the envelope. Only the ports differ, to run beside the rest."""


def main() -> None:
    """Parse the command line, pack the archive and run TorchServe."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.stock", description=__doc__)
    parser.add_argument("--archive", type=Path, required=True)
    parser.add_argument("--port", type=int, required=True)
    args = parser.parse_args()
    with tempfile.TemporaryDirectory(prefix="stock-") as scratch:
        folder = Path(scratch)
        _pack(args.archive, folder / "stock.mar")
        ports = {name: find_free_port() for name in re.findall(r"{(\w+)}", CONFIG)}
        (folder / "config.properties").write_text(CONFIG.format(**ports | {"port": args.port}))
        home = Path(java.find().executable).resolve().parent.parent
        options = (
            "--start --foreground --ts-config config.properties --models stock=stock.mar "
            "--model-store . --disable-token-auth --no-config-snapshots"
        )
        words = [str(Path(sys.executable).with_name("torchserve")), *options.split()]
        subprocess.run(words, cwd=folder, env=os.environ | {"JAVA_HOME": str(home)}, check=False)


def _pack(archive: Path, target: Path) -> None:
    """Write an archive with the same contents and the samples' handler."""
    with zipfile.ZipFile(archive) as ours, zipfile.ZipFile(target, "w") as packed:
        for name in ours.namelist():
            if name not in (MANIFEST, "vertex_handler.py"):
                packed.writestr(name, ours.read(name))
        manifest = json.loads(ours.read(MANIFEST))
        manifest["model"] |= {"modelName": "stock", "handler": HANDLER.name}
        packed.writestr(MANIFEST, json.dumps(manifest))
        packed.write(HANDLER, HANDLER.name)


if __name__ == "__main__":
    main()
