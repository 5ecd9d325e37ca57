"""Build the stock archive with torch-model-archiver, and replace files in archives."""

import os
import subprocess
import sys
import tempfile
import zipfile
from pathlib import Path

import torch

from tests.stock.mnist import Net

HERE = Path(__file__).parent


def pack(folder: Path, handler: Path = HERE / "mnist_handler.py", *more: str) -> Path:
    """Write model.mar into a folder and return its path; its weights have a fixed seed."""
    torch.manual_seed(7)
    weights = folder / "mnist_cnn.pt"
    torch.save(Net().state_dict(), weights)
    command = [
        *(sys.executable, "-m", "model_archiver.model_packaging", "--force"),
        *("--model-name=model", "--version=1.0", f"--model-file={HERE / 'mnist.py'}"),
        *(f"--serialized-file={weights}", f"--handler={handler}", f"--export-path={folder}", *more),
    ]
    # The archiver collects the files in TMPDIR/NAME, which others that run at once would overwrite.
    with tempfile.TemporaryDirectory() as scratch:
        environ = os.environ | {"TMPDIR": scratch}
        subprocess.run(command, check=True, capture_output=True, timeout=120, env=environ)
    weights.unlink()
    return folder / "model.mar"


def changed(archive: Path, target: Path, name: str, content: bytes) -> Path:
    """Write a copy of an archive with one file's content replaced; return its path."""
    with zipfile.ZipFile(archive) as old:
        files = {file: old.read(file) for file in old.namelist()}
    with zipfile.ZipFile(target, "w") as new:
        for file, data in (files | {name: content}).items():
            new.writestr(file, data)
    return target
