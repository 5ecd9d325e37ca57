"""Train the digit network, evaluate it, and write the files of the archive."""

import argparse
import sys
from pathlib import Path

import network
import torch

from train.data import DataError, load_data
from train.evaluation import (
    SMALL_SCAN,
    accuracy_by_variant,
    draw_samples,
    predict,
    write_report,
)
from train.training import BATCH_SIZE, draw_examples, train_network
from train.writing import write_held_out, write_model


def main() -> None:
    """Train with the options of the command line; write weights to --out and a report to --report."""
    args = _parse_arguments()
    try:
        data = load_data(args.data)
    except DataError as error:
        sys.exit(f"train: {error}")
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
    # The most certain image of each label.
    known = {
        samples[index].label: samples[index] for index in sorted(correct, key=scores.__getitem__)
    }
    if len(known) < 2:
        sys.exit(
            "train: held-out images of fewer than two classes were classified correctly; "
            "train on more images"
        )
    options = {name: getattr(args, name) for name in ("pictures", "epochs", "seed")}
    metadata = {
        "network_version": network.VERSION,
        "labels": data.labels,
        "metrics": {"held_out_accuracy": accuracy},
        "training": {"data": data.source, "examples": examples, **options},
    }
    write_model(args.out, net, metadata, list(known.values())[:2])
    write_held_out(args.out, samples)
    print(f"weights, labels, metrics       {args.out}/")
    print(f"misread digits, confusion      {args.report}/")


def _parse_arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="python -m train", description=__doc__)
    add = parser.add_argument
    text = "images in one folder per class (default: scikit-learn's digits)"
    add("--data", type=Path, metavar="FOLDER", help=text)
    text = "folder for the weights (default: %(default)s)"
    add("--out", type=Path, default="build/digits/weights", help=text)
    text = "folder for the report (default: report, beside the weights)"
    add("--report", type=Path, help=text)
    add("--seed", type=int, default=0, help="seed of all random numbers (default: %(default)s)")
    add("--pictures", type=int, default=60_000, help="images to draw (default: %(default)s)")
    add("--epochs", type=int, default=6, help="passes over these images (default: %(default)s)")
    args = parser.parse_args()
    args.report = args.report or args.out.parent / "report"
    for name, minimum in (("pictures", BATCH_SIZE), ("epochs", 1)):
        if getattr(args, name) < minimum:
            parser.error(f"--{name}: expected {minimum} or more")
    return args


if __name__ == "__main__":
    main()
