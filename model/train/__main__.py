"""Train the digit network, evaluate it, and write what the archive carries."""

import argparse
import sys
from pathlib import Path

import torch

from model import network
from model.train import data as sources
from model.train.evaluate import SMALL_SCAN, evaluate, write_report
from model.train.fit import BATCH, draw_all, fit
from model.train.write import write_model


def main() -> None:
    """Train as the command line says."""
    args = _arguments()
    try:
        data = sources.folder(args.data) if args.data else sources.digits()
    except sources.BadData as error:
        sys.exit(f"model.train: {error}")
    print(
        f"{len(data.training)} examples, {len(data.held_out)} held out: {data.source}", flush=True
    )
    torch.manual_seed(args.seed)
    drawn, targets = draw_all(data.training, args.pictures)
    net = fit(drawn, targets, len(data.labels), args.epochs)
    evaluations = evaluate(net, data, args.seed)
    accuracy = {name: round(each.accuracy, 4) for name, each in evaluations.items()}
    options = {name: getattr(args, name) for name in ("pictures", "epochs", "seed")}
    about = {
        "network_version": network.VERSION,
        "labels": data.labels,
        "metrics": {"held_out_accuracy": accuracy},
        "training": {"data": data.source, "examples": len(data.training), **options},
    }
    write_model(args.out, net, about, evaluations[SMALL_SCAN])
    print("\nHeld-out digits read right:")
    for name, share in accuracy.items():
        print(f"  {share:6.1%}  {name}")
    print(f"\n{write_report(args.report, evaluations, data.labels)}\n")
    print(f"weights, labels, metrics   {args.out}/\nmisread digits, confusion  {args.report}/")


def _arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="python -m model.train", description=__doc__)
    parser.add_argument(
        "--data", type=Path, metavar="FOLDER", help="with a folder of pictures per class"
    )
    parser.add_argument("--out", type=Path, default="build/model", help="weights (%(default)s)")
    parser.add_argument("--report", type=Path, default="build/report", help="(%(default)s)")
    parser.add_argument("--seed", type=int, default=0, help="(%(default)s)")
    parser.add_argument("--pictures", type=int, default=60_000, help="to draw (%(default)s)")
    parser.add_argument("--epochs", type=int, default=6, help="(%(default)s)")
    args = parser.parse_args()
    for name, minimum in (("pictures", BATCH), ("epochs", 1)):
        if getattr(args, name) < minimum:
            parser.error(f"--{name}: expected {minimum} or more")
    return args


if __name__ == "__main__":
    main()
