"""Lay held-out pictures beside weights that came without any: the engine is chosen by them."""

import argparse
import sys
from pathlib import Path

from model.train import data as sources
from model.train.evaluate import SMALL_SCAN
from model.train.write import write_held_out
from pipeline.evaluate import held_out


def main() -> None:
    """Run the command line."""
    parser = argparse.ArgumentParser(prog="python -m pipeline.pictures", description=__doc__)
    parser.add_argument("model", type=Path, help="the folder of the weights")
    parser.add_argument("--data", type=Path, metavar="FOLDER", help="as of model.train")
    args = parser.parse_args()
    try:
        data = sources.folder(args.data) if args.data else sources.digits()
    except sources.BadData as error:
        sys.exit(f"pipeline.pictures: {error}")
    shown = [(each.label, each.picture) for each in held_out(data) if each.way == SMALL_SCAN]
    count = write_held_out(args.model / "held-out", shown)
    print(f"{args.model}/held-out: {count} pictures")


if __name__ == "__main__":
    main()
