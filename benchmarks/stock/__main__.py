"""Run TorchServe as Google's samples do, with the task of one of our archives, until it is stopped."""

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
BARE = Path(__file__).parent.with_name("bare.py")
MANIFEST = "MAR-INF/MANIFEST.json"
CONFIG = """inference_address=http://127.0.0.1:{port}
management_address=http://127.0.0.1:{management}
metrics_address=http://127.0.0.1:{metrics}
grpc_inference_port={grpc}
grpc_management_port={grpc_management}
"""
"""The samples' addresses; the ports differ, because other servers run at the same time. The samples' envelope
is left out: it discards the parameters of a request, and decodes base64 that the task expects."""


def main() -> None:
    """Parse the options, write the archive and run TorchServe."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.stock", description=__doc__)
    add = parser.add_argument
    add("--archive", type=Path, required=True, help="a .mar of this project")
    add("--port", type=int, required=True, help="port of the inference API")
    args = parser.parse_args()
    with tempfile.TemporaryDirectory(prefix="stock-") as temporary:
        folder = Path(temporary)
        _write_archive(args.archive, folder / "stock.mar")
        ports = {name: find_free_port() for name in re.findall(r"{(\w+)}", CONFIG)}
        (folder / "config.properties").write_text(CONFIG.format(**ports | {"port": args.port}))
        java_home = Path(java.find().executable).resolve().parent.parent
        options = (
            "--start --foreground --ts-config config.properties --models stock=stock.mar "
            "--model-store . --disable-token-auth --no-config-snapshots"
        )
        command = [sys.executable, "-m", "ts.model_server", *options.split()]
        # TorchServe allows one server, and one set of sockets, in each folder for temporary files.
        env = os.environ | {"JAVA_HOME": str(java_home), "TMPDIR": temporary, "TEMP": temporary}
        subprocess.run(command, cwd=folder, env=env, check=False)


def _write_archive(archive: Path, target: Path) -> None:
    """Write an archive with the same content and the handler of this folder."""
    with zipfile.ZipFile(archive) as source, zipfile.ZipFile(target, "w") as mar:
        for name in source.namelist():
            if name not in (MANIFEST, "vertex_handler.py"):
                mar.writestr(name, source.read(name))
        manifest = json.loads(source.read(MANIFEST))
        manifest["model"] |= {"modelName": "stock", "handler": HANDLER.name}
        mar.writestr(MANIFEST, json.dumps(manifest))
        mar.write(HANDLER, HANDLER.name)
        mar.write(BARE, "benchmarks/bare.py")


if __name__ == "__main__":
    main()
