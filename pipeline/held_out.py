"""Held-out pictures: models are compared on them, and an engine is chosen by them.

As a program, lay some beside weights that came without any.
"""

import argparse
import sys
from pathlib import Path

from model.train.data import Data, DataError, load
from model.train.evaluate import SMALL_SCAN, Shown, redraw
from model.train.write import write_held_out

SEED = 1
"""Not that of the training's own examination: other pictures, of the same writers."""


def held_out(data: Data, limit: int = 0) -> list[Shown]:
    """Return the held-out pictures, each in all the ways of the examination; about `limit`, if that is not 0."""
    return redraw(data, SEED, limit)


def main() -> None:
    """Run the command line."""
    parser = argparse.ArgumentParser(prog="python -m pipeline.held_out", description=__doc__)
    parser.add_argument("model", type=Path, help="the folder of the weights")
    parser.add_argument("--data", type=Path, metavar="FOLDER", help="as of model.train")
    args = parser.parse_args()
    try:
        shown = held_out(load(args.data))
    except DataError as error:
        sys.exit(f"pipeline.held_out: {error}")
    count = write_held_out(
        args.model / "held-out", [each for each in shown if each.way == SMALL_SCAN]
    )
    print(f"{args.model}/held-out: {count} pictures")


if __name__ == "__main__":
    main()
