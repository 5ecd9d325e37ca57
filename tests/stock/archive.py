"""Packs the stock archive with torch-model-archiver, as its user does."""

import subprocess
import sys
from pathlib import Path

import torch

from tests.stock.mnist import Net

HERE = Path(__file__).parent


def pack(folder: Path, handler: Path = HERE / "mnist_handler.py", *more: str) -> Path:
    """Write model.mar into a folder and return its path; the weights are of a fixed seed."""
    torch.manual_seed(7)
    weights = folder / "mnist_cnn.pt"
    torch.save(Net().state_dict(), weights)
    command = [
        sys.executable,
        "-m",
        "model_archiver.model_packaging",
        "--model-name",
        "model",
        "--version",
        "1.0",
        "--model-file",
        str(HERE / "mnist.py"),
        "--serialized-file",
        str(weights),
        "--handler",
        str(handler),
        "--export-path",
        str(folder),
        "--force",
        *more,
    ]
    subprocess.run(command, check=True, capture_output=True, timeout=120)
    weights.unlink()
    return folder / "model.mar"
