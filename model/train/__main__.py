"""Train the digit network, evaluate it, and write what the archive carries."""

import argparse
import sys
from pathlib import Path

import torch

from model import network
from model.train.data import DataError, load
from model.train.evaluate import SMALL_SCAN, accuracies, predict, redraw, write_report
from model.train.fit import BATCH, draw_all, fit
from model.train.write import write_held_out, write_model


def main() -> None:
    """Train as the command line says."""
    args = _arguments()
    try:
        data = load(args.data)
    except DataError as error:
        sys.exit(f"model.train: {error}")
    examples = len(data.training)
    print(f"{examples} examples, {len(data.held_out)} held out: {data.source}", flush=True)
    torch.manual_seed(args.seed)
    drawn, targets = draw_all(data.training, args.pictures)
    net = fit(drawn, targets, len(data.labels), args.epochs)

    shown = redraw(data, args.seed)
    answers, scores = predict(net, shown, data.labels)
    accuracy = {way: round(share, 4) for way, share in accuracies(shown, answers).items()}
    print("\nHeld-out digits read right:")
    for way, share in accuracy.items():
        print(f"  {share:6.1%}  {way}")
    print(f"\n{write_report(args.report, shown, answers, data.labels)}\n")

    scans = [index for index, each in enumerate(shown) if each.way == SMALL_SCAN]
    right = [index for index in scans if shown[index].label == answers[index]]
    if not right:
        sys.exit("model.train: no held-out picture was read right; train on more pictures")
    surest = shown[max(right, key=scores.__getitem__)]
    options = {name: getattr(args, name) for name in ("pictures", "epochs", "seed")}
    about = {
        "network_version": network.VERSION,
        "labels": data.labels,
        "metrics": {"held_out_accuracy": accuracy},
        "training": {"data": data.source, "examples": examples, **options},
    }
    write_held_out(args.out / "held-out", [shown[index] for index in scans])
    write_model(args.out, net, about, surest)
    print(f"weights, labels, metrics   {args.out}/\nmisread digits, confusion  {args.report}/")


def _arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="python -m model.train", description=__doc__)
    add = parser.add_argument
    add("--data", type=Path, metavar="FOLDER", help="with a folder of pictures per class")
    add("--out", type=Path, default="build/model", help="weights (%(default)s)")
    add("--report", type=Path, default="build/report", help="(%(default)s)")
    add("--seed", type=int, default=0, help="(%(default)s)")
    add("--pictures", type=int, default=60_000, help="to draw (%(default)s)")
    add("--epochs", type=int, default=6, help="(%(default)s)")
    args = parser.parse_args()
    for name, minimum in (("pictures", BATCH), ("epochs", 1)):
        if getattr(args, name) < minimum:
            parser.error(f"--{name}: expected {minimum} or more")
    return args


if __name__ == "__main__":
    main()
