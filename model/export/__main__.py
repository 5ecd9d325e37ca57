"""Measure the engines on this machine and write the fastest that keeps the answers."""

import argparse
import sys
from pathlib import Path

import torch
from PIL import Image

from model.normalise import normalise
from model.task import read_network
from task.backends import measure

BATCHES = (1, 8, 32)
"""Instances in a pass: one client alone, some, many."""


def main() -> None:
    """Measure as the command line says."""
    parser = argparse.ArgumentParser(prog="python -m model.export", description=__doc__)
    parser.add_argument("--model", type=Path, default="build/model", help="(%(default)s)")
    parser.add_argument("--rounds", type=int, default=25, help="of measuring (%(default)s)")
    args = parser.parse_args()
    files = sorted((args.model / "held-out").glob("*.png"))
    if not files:
        sys.exit(f"model.export: {args.model / 'held-out'} has no pictures: run make model")
    held_out = torch.stack([normalise(Image.open(file)) for file in files]).unsqueeze(1) / 255
    trials = measure.measure(read_network(args.model)[0], held_out, BATCHES, args.rounds)
    trials.write(args.model)
    print(f"{trials.table()}\n{args.model}/engine.json")


if __name__ == "__main__":
    main()
