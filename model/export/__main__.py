"""Measure the backends on this machine and write the fastest that keeps the predictions to backend.json."""

import argparse
import sys
from pathlib import Path

import torch
from PIL import Image

from model.normalise import normalise
from model.task import read_network
from task.backends.loading import FILE
from task.backends.measure import measure_backends

BATCH_SIZES = (1, 8, 32)


def main() -> None:
    """Measure with the held-out images of a weights folder and write the choice into that folder."""
    parser = argparse.ArgumentParser(prog="python -m model.export", description=__doc__)
    add = parser.add_argument
    text = "folder of the weights (default: %(default)s)"
    add("--model", type=Path, default="build/model", help=text)
    text = "passes per backend and batch size (default: %(default)s)"
    add("--rounds", type=int, default=25, help=text)
    args = parser.parse_args()
    if args.rounds < 1:
        parser.error("--rounds: expected 1 or more")
    files = sorted((args.model / "held-out").glob("*.png"))
    if not files:
        sys.exit(f"model.export: {args.model / 'held-out'} has no images: run make model")
    held_out = torch.stack([normalise(Image.open(file)) for file in files]).unsqueeze(1) / 255
    net, _ = read_network(args.model)
    measurements = measure_backends(net, held_out, BATCH_SIZES, args.rounds)
    measurements.write(args.model)
    print(f"{measurements.format_table()}\n{args.model / FILE}")


if __name__ == "__main__":
    main()
