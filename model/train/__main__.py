"""Train the digit network, examine it, and write what the archive carries."""

import argparse
import base64
import glob
import json
import os
import sys
import time
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import save_file
from torch import nn

from model import network
from model.train import data as sources
from model.train.data import BadData, Data, png
from model.train.fit import BATCH, draw_all, fit
from model.train.report import REPEATS, Sitting, confusion, examine, misread

SAMPLE = "another pen, 28x28 white on black"
"""The examination whose pictures are kept to try the model with."""


def main() -> None:
    """Run the command line."""
    args = _arguments()
    try:
        data = sources.folder(args.data) if args.data else sources.digits()
    except BadData as error:
        sys.exit(f"model.train: {error}")
    began = time.monotonic()
    print(
        f"{len(data.training)} digits to learn from, {len(data.held_out)} held out: {data.source}"
    )
    drawn, targets = draw_all(data.training, args.pictures, args.seed, args.processes)
    net = fit(drawn, targets, len(data.labels), args.epochs, args.seed)
    sittings = examine(net, data, args.seed)
    accuracy = {name: round(sitting.accuracy, 4) for name, sitting in sittings.items()}
    about = {
        "network_version": network.VERSION,
        "labels": data.labels,
        "metrics": {"held_out_accuracy": accuracy},
        "training": {"data": data.source, "digits": len(data.training), "seed": args.seed},
    }
    _write_model(args.out, net, about, sittings[SAMPLE])
    _write_report(args.report, data, sittings)
    print(f"\nHeld-out digits read right, after {time.monotonic() - began:.0f} s:")
    for name, share in accuracy.items():
        print(f"  {share:6.1%}  {name}")
    print(f"\n{confusion(sittings, data.labels)}\n")
    print(f"weights, labels, metrics   {args.out}/\nmisread digits, confusion  {args.report}/")


def _arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="python -m model.train", description=__doc__)
    parser.add_argument(
        "--data",
        type=Path,
        metavar="FOLDER",
        help="a folder of pictures per class (default: digits)",
    )
    parser.add_argument(
        "--out", type=Path, default="build/model", help="for the weights (%(default)s)"
    )
    parser.add_argument("--report", type=Path, default="build/report", help="(%(default)s)")
    parser.add_argument("--seed", type=int, default=0, help="(%(default)s)")
    parser.add_argument(
        "--pictures", type=int, default=60_000, help="how many to draw from them (%(default)s)"
    )
    parser.add_argument("--epochs", type=int, default=5, help="(%(default)s)")
    parser.add_argument(
        "--processes",
        type=int,
        default=min(os.cpu_count() or 1, 8),
        help="to draw with (%(default)s)",
    )
    args = parser.parse_args()
    for name, least in (("pictures", BATCH), ("epochs", 1), ("processes", 1)):
        if getattr(args, name) < least:
            parser.error(f"--{name}: expected {least} or more")
    return args


def _write_model(folder: Path, net: nn.Module, about: dict[str, Any], sample: Sitting) -> None:
    labels: list[str] = about["labels"]
    held_out = folder / "held-out"
    held_out.mkdir(parents=True, exist_ok=True)
    for old in held_out.glob("*.png"):
        old.unlink()
    (folder / "model.json").write_text(json.dumps(about, indent=2) + "\n")
    right = sample.scores.argmax(1) == sample.wanted
    if not right.any():
        sys.exit(
            "model.train: the network read no held-out picture right; give it more to learn from"
        )
    surest = int(torch.where(right, sample.scores.amax(1), 0.0).argmax())
    label = labels[int(sample.wanted[surest])]
    picture = base64.b64encode(png(sample.pictures[surest])).decode()
    golden = {"instance": {"b64": picture}, "expected": {"label": label}}
    (folder / "golden.json").write_text(json.dumps(golden) + "\n")
    shown = [png(picture) for picture in sample.pictures[:: max(len(sample.pictures) // 10, 1)]]
    instances = {"instances": [{"b64": base64.b64encode(one).decode()} for one in shown]}
    (held_out / "instances.json").write_text(json.dumps(instances) + "\n")
    for number in range(len(sample.pictures) // REPEATS):
        label = labels[int(sample.wanted[number])]
        earlier = len(list(held_out.glob(f"{glob.escape(label)}-*.png")))
        (held_out / f"{label}-{earlier:03}.png").write_bytes(png(sample.pictures[number]))
    # The weights last: make takes their being there for all of it being there.
    tensors = {name: tensor.contiguous() for name, tensor in net.state_dict().items()}
    save_file(tensors, folder / "weights.safetensors")


def _write_report(folder: Path, data: Data, sittings: dict[str, Sitting]) -> None:
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "confusion.txt").write_text(confusion(sittings, data.labels) + "\n")
    misread(sittings, data.labels).save(folder / "misread.png")


if __name__ == "__main__":
    main()
