"""Train a k-nearest-neighbours classifier on iris, and write it for the function to fetch."""

import argparse
from pathlib import Path

import numpy
from sklearn.datasets import load_iris
from sklearn.neighbors import KNeighborsClassifier

from functions.knn import iris

HELD_OUT = 10
"""Flowers that it is examined on: the last of the permutation."""


def train(seed: int) -> tuple[KNeighborsClassifier, int]:
    """Return a classifier, and how many of the held-out flowers it names rightly."""
    flowers, species = load_iris(return_X_y=True)
    order = numpy.random.RandomState(seed).permutation(len(flowers))
    learned, held_out = order[:-HELD_OUT], order[-HELD_OUT:]
    model = KNeighborsClassifier().fit(flowers[learned], species[learned])
    return model, int((model.predict(flowers[held_out]) == species[held_out]).sum())


def main() -> None:
    """Run the command line."""
    parser = argparse.ArgumentParser(prog="python -m functions.knn.train", description=__doc__)
    parser.add_argument("--seed", type=int, default=0, help="of the permutation (%(default)s)")
    parser.add_argument("--out", type=Path, default=Path("build/knn"), help="(%(default)s)")
    args = parser.parse_args()
    model, right = train(args.seed)
    args.out.mkdir(parents=True, exist_ok=True)
    iris.save(model, args.out / iris.FILE)
    iris.load(args.out)  # what cannot be read back is not for a bucket
    print(f"{right}/{HELD_OUT} held-out flowers named rightly")
    print(f"{args.out / iris.FILE}  {(args.out / iris.FILE).stat().st_size / 1024:.0f} KiB")


if __name__ == "__main__":
    main()
