"""Measure the engines on this machine and write the fastest that keeps the answers."""

import argparse
import base64
import sys
from pathlib import Path

import torch
from torch import Tensor

from engine import measure
from model.task import load, read_network

BATCHES = (1, 8, 32)
"""Instances in a pass: one client alone, some, a crowd."""


def main() -> None:
    """Run the command line."""
    parser = argparse.ArgumentParser(prog="python -m model.export", description=__doc__)
    parser.add_argument("--model", type=Path, default="build/model", help="(%(default)s)")
    parser.add_argument("--rounds", type=int, default=25, help="of measuring (%(default)s)")
    args = parser.parse_args()
    trials = measure.measure(read_network(args.model), _held_out(args.model), BATCHES, args.rounds)
    trials.write(args.model)
    print(f"{trials.table()}\n{args.model}/engine.json")


def _held_out(folder: Path) -> Tensor:
    files = sorted((folder / "held-out").glob("*.png"))
    if not files:
        sys.exit(f"model.export: {folder / 'held-out'} has no pictures: run make model")
    task = load(folder, torch.device("cpu"))
    shown = ({"b64": base64.b64encode(file.read_bytes()).decode()} for file in files)
    return torch.stack([task.preprocess(instance) for instance in shown]) / 255


if __name__ == "__main__":
    main()
