"""Start TorchServe as the samples do, with the task of an archive of ours, until it is ended."""

import argparse
import os
import subprocess
import sys
import tempfile
import zipfile
from pathlib import Path

from serving import java
from serving.torchserve import free_port

CONFIG = """inference_address=http://127.0.0.1:{port}
management_address=http://127.0.0.1:{management}
metrics_address=http://127.0.0.1:{metrics}
grpc_inference_port={grpc}
grpc_management_port={grpc_management}
service_envelope=json
"""
"""The samples' own: addresses and the envelope. The ports are others, to run beside the rest."""


def main() -> None:
    """Run the command line."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.stock", description=__doc__)
    parser.add_argument("--archive", type=Path, required=True)
    parser.add_argument("--port", type=int, required=True)
    args = parser.parse_args()
    with tempfile.TemporaryDirectory(prefix="stock-") as scratch:
        folder = Path(scratch)
        _pack(args.archive, folder)
        config = folder / "config.properties"
        names = ("management", "metrics", "grpc", "grpc_management")
        config.write_text(CONFIG.format(port=args.port, **{name: free_port() for name in names}))
        home = Path(java.find().executable).resolve().parent.parent
        torchserve = [str(Path(sys.executable).with_name("torchserve")), "--start", "--foreground"]
        subprocess.run(
            [
                *torchserve,
                "--ts-config",
                str(config),
                "--models",
                "stock=stock.mar",
                "--model-store",
                str(folder),
                "--disable-token-auth",
                "--no-config-snapshots",
            ],
            cwd=folder,
            env=os.environ | {"JAVA_HOME": str(home)},
            check=False,
        )


def _pack(archive: Path, folder: Path) -> None:
    contents = folder / "contents"
    with zipfile.ZipFile(archive) as packed:
        packed.extractall(contents)
    (contents / "vertex_handler.py").unlink()
    subprocess.run(
        [
            sys.executable,
            "-m",
            "model_archiver.model_packaging",
            "--model-name",
            "stock",
            "--version",
            "1.0",
            "--handler",
            str(Path(__file__).with_name("stock_handler.py")),
            "--extra-files",
            str(contents),
            "--export-path",
            str(folder),
        ],
        check=True,
        capture_output=True,
        timeout=120,
    )


if __name__ == "__main__":
    main()
