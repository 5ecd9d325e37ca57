"""Held-out pictures: models are compared on them, and an engine is chosen by them.

As a program, lay some beside weights that came without any.
"""

import argparse
import sys
from pathlib import Path
from typing import NamedTuple

from PIL import Image

from model.train import data as sources
from model.train.data import BadData, Data
from model.train.evaluate import REPEATS, SMALL_SCAN, VARIANTS, redraw
from model.train.write import as_instance, write_held_out

SEED = 1
"""Not that of the training's own examination: other pictures, of the same writers."""


class Shown(NamedTuple):
    """A held-out picture."""

    way: str
    """In which way it was drawn."""
    picture: Image.Image
    label: str

    @property
    def base64(self) -> str:
        """The picture as a request has it."""
        return as_instance(self.picture)["b64"]


def load(folder: Path | None) -> Data:
    """Return the pictures in a folder, as of model.train, or the digits; raise BadData."""
    return sources.folder(folder) if folder else sources.digits()


def held_out(data: Data, most: int = 0) -> list[Shown]:
    """Return the held-out pictures, each in all the ways of the examination; about `most`, if that is not 0."""
    drawn = len(data.held_out) * (1 + REPEATS * (len(VARIANTS) - 1))
    some = data.held_out[:: -(-drawn // most) if most else 1]
    return [
        Shown(way, each.picture, data.labels[each.target])
        for way in VARIANTS
        for each in redraw(way, some, SEED)
    ]


def main() -> None:
    """Run the command line."""
    parser = argparse.ArgumentParser(prog="python -m pipeline.pictures", description=__doc__)
    parser.add_argument("model", type=Path, help="the folder of the weights")
    parser.add_argument("--data", type=Path, metavar="FOLDER", help="as of model.train")
    args = parser.parse_args()
    try:
        data = load(args.data)
    except BadData as error:
        sys.exit(f"pipeline.pictures: {error}")
    shown = [(each.label, each.picture) for each in held_out(data) if each.way == SMALL_SCAN]
    count = write_held_out(args.model / "held-out", shown)
    print(f"{args.model}/held-out: {count} pictures")


if __name__ == "__main__":
    main()
