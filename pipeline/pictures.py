"""Lay held-out pictures beside weights that came without any: the engine is chosen by them."""

import argparse
import base64
import json
import sys
from collections import Counter
from pathlib import Path

from model.train import data as sources
from model.train.__main__ import SAMPLE
from model.train.data import BadData, png
from pipeline.evaluate import held_out
from pipeline.report import Shown

INSTANCES = 10
"""How many of them stand in instances.json too, as requests have them."""


def lay(folder: Path, shown: list[Shown]) -> None:
    """Write LABEL-NUMBER.png for each picture, and some of them as instances."""
    folder.mkdir(parents=True, exist_ok=True)
    seen: Counter[str] = Counter()
    for each in shown:
        (folder / f"{each.label}-{seen[each.label]:03}.png").write_bytes(png(each.picture))
        seen[each.label] += 1
    some = shown[:: max(len(shown) // INSTANCES, 1)]
    instances = [{"b64": base64.b64encode(png(each.picture)).decode()} for each in some]
    (folder / "instances.json").write_text(json.dumps({"instances": instances}) + "\n")


def main() -> None:
    """Run the command line."""
    parser = argparse.ArgumentParser(prog="python -m pipeline.pictures", description=__doc__)
    parser.add_argument("model", type=Path, help="the folder of the weights")
    parser.add_argument("--data", type=Path, metavar="FOLDER", help="as of model.train")
    args = parser.parse_args()
    try:
        data = sources.folder(args.data) if args.data else sources.digits()
    except BadData as error:
        sys.exit(f"pipeline.pictures: {error}")
    shown = [each for each in held_out(data) if each.way == SAMPLE][: len(data.held_out)]
    lay(args.model / "held-out", shown)
    print(f"{args.model}/held-out: {len(shown)} pictures")


if __name__ == "__main__":
    main()
