"""Train the digit network, evaluate it, and write the files of the archive."""

import argparse
import sys
from pathlib import Path

import torch

from model import network
from model.train.data import DataError, load_data
from model.train.evaluation import (
    SMALL_SCAN,
    accuracy_by_variant,
    draw_samples,
    predict,
    write_report,
)
from model.train.training import BATCH_SIZE, draw_examples, train_network
from model.train.writing import write_held_out, write_model


def main() -> None:
    """Train with the options of the command line; write weights to --out and a report to --report."""
    args = _parse_arguments()
    try:
        data = load_data(args.data)
    except DataError as error:
        sys.exit(f"model.train: {error}")
    examples = len(data.training)
    print(f"{examples} examples, {len(data.held_out)} held out: {data.source}", flush=True)
    torch.manual_seed(args.seed)
    images, targets = draw_examples(data.training, args.pictures)
    net = train_network(images, targets, len(data.labels), args.epochs)

    samples = draw_samples(data, args.seed)
    predicted, scores = predict(net, samples, data.labels)
    accuracy = {
        variant: round(share, 4)
        for variant, share in accuracy_by_variant(samples, predicted).items()
    }
    print("\nAccuracy on held-out digits:")
    for variant, share in accuracy.items():
        print(f"  {share:6.1%}  {variant}")
    print(f"\n{write_report(args.report, samples, predicted, data.labels)}\n")

    scans = [index for index, sample in enumerate(samples) if sample.variant == SMALL_SCAN]
    correct = [index for index in scans if samples[index].label == predicted[index]]
    if not correct:
        sys.exit("model.train: no held-out image was classified correctly; train on more images")
    golden = samples[max(correct, key=scores.__getitem__)]
    options = {name: getattr(args, name) for name in ("pictures", "epochs", "seed")}
    metadata = {
        "network_version": network.VERSION,
        "labels": data.labels,
        "metrics": {"held_out_accuracy": accuracy},
        "training": {"data": data.source, "examples": examples, **options},
    }
    write_held_out(args.out / "held-out", [samples[index] for index in scans])
    write_model(args.out, net, metadata, golden)
    print(f"weights, labels, metrics       {args.out}/")
    print(f"misread digits, confusion      {args.report}/")


def _parse_arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="python -m model.train", description=__doc__)
    add = parser.add_argument
    text = "images in one folder per class (default: scikit-learn's digits)"
    add("--data", type=Path, metavar="FOLDER", help=text)
    add("--out", type=Path, default="build/model", help="for the weights (default: %(default)s)")
    add("--report", type=Path, default="build/report", help="for the report (default: %(default)s)")
    add("--seed", type=int, default=0, help="seed of all random numbers (default: %(default)s)")
    add("--pictures", type=int, default=60_000, help="images to draw (default: %(default)s)")
    add("--epochs", type=int, default=6, help="passes over these images (default: %(default)s)")
    args = parser.parse_args()
    for name, minimum in (("pictures", BATCH_SIZE), ("epochs", 1)):
        if getattr(args, name) < minimum:
            parser.error(f"--{name}: expected {minimum} or more")
    return args


if __name__ == "__main__":
    main()
