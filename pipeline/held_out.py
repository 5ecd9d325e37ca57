"""Held-out pictures, on which models are compared and the exported backend is chosen.

As a program: add held-out pictures to a folder of weights that has none.
"""

import argparse
import sys
from pathlib import Path

from train.data import Data, DataError, load_data
from train.evaluation import SMALL_SCAN, Sample, draw_samples
from train.writing import write_held_out

SEED = 1
"""Not the seed of the evaluation after training: other pictures by the same writers."""


def draw_held_out(data: Data, limit: int = 0) -> list[Sample]:
    """Return the held-out pictures, drawn in each variant of the evaluation; about `limit` pictures, all if 0."""
    samples: list[Sample] = draw_samples(data, SEED, limit)
    return samples


def main() -> None:
    """Write held-out pictures beside the weights; exit with the reason if the data is invalid."""
    parser = argparse.ArgumentParser(
        prog="python -m pipeline.held_out",
        description="Add held-out pictures to a folder of weights that has none.",
    )
    add = parser.add_argument
    add("model", type=Path, help="the folder of the weights")
    text = "images in one folder per class (default: scikit-learn's digits)"
    add("--data", type=Path, metavar="FOLDER", help=text)
    args = parser.parse_args()
    try:
        samples = draw_held_out(load_data(args.data))
    except DataError as error:
        sys.exit(f"pipeline.held_out: {error}")
    scans = [each for each in samples if each.variant == SMALL_SCAN]
    count = write_held_out(args.model / "held-out", scans)
    print(f"{args.model}/held-out: {count} pictures")


if __name__ == "__main__":
    main()
