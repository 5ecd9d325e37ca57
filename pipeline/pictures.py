"""Held-out pictures: models are compared on them, and an engine is chosen by them.

As a program, lay some beside weights that came without any.
"""

import argparse
import base64
import json
import random
import sys
from collections import Counter
from pathlib import Path
from typing import NamedTuple

from PIL import Image

from model.train import data as sources
from model.train.__main__ import SAMPLE
from model.train.data import BadData, Data, png
from model.train.exam import EXAMINERS
from model.train.report import REPEATS

SEED = 1
"""Not that of the training's own examination: other pictures, of the same writers."""
INSTANCES = 10
"""How many pictures stand in instances.json too, as requests have them."""


class Shown(NamedTuple):
    """A held-out picture."""

    way: str
    """In which way it was drawn."""
    picture: Image.Image
    label: str

    @property
    def base64(self) -> str:
        """The picture as a request has it."""
        return base64.b64encode(png(self.picture)).decode()


def load(folder: Path | None) -> Data:
    """Return the pictures in a folder, as of model.train, or the digits; raise BadData."""
    return sources.folder(folder) if folder else sources.digits()


def held_out(data: Data, most: int = 0) -> list[Shown]:
    """Return the held-out pictures, each in all the ways of the examination; about `most`, if that is not 0."""
    drawn = len(data.held_out) * (1 + REPEATS * (len(EXAMINERS) - 1))
    some = data.held_out[:: -(-drawn // most) if most else 1]
    found = []
    for way, examiner in EXAMINERS.items():
        rng = random.Random(SEED)
        for each in some * (1 if way == "as scanned" else REPEATS):
            found.append(Shown(way, examiner(each.picture, rng), data.labels[each.target]))
    return found


def lay(folder: Path, shown: list[Shown]) -> None:
    """Write LABEL-NUMBER.png for each picture, and some of them as instances."""
    folder.mkdir(parents=True, exist_ok=True)
    seen: Counter[str] = Counter()
    for each in shown:
        (folder / f"{each.label}-{seen[each.label]:03}.png").write_bytes(png(each.picture))
        seen[each.label] += 1
    instances = [{"b64": each.base64} for each in shown[:: max(len(shown) // INSTANCES, 1)]]
    (folder / "instances.json").write_text(json.dumps({"instances": instances}) + "\n")


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
    shown = [each for each in held_out(data) if each.way == SAMPLE][: len(data.held_out)]
    lay(args.model / "held-out", shown)
    print(f"{args.model}/held-out: {len(shown)} pictures")


if __name__ == "__main__":
    main()
