"""Train a k-nearest-neighbours classifier on the iris data set, and write it for the function."""

import argparse
from pathlib import Path

import numpy
from sklearn.datasets import load_iris
from sklearn.neighbors import KNeighborsClassifier

from functions.knn import iris

HELD_OUT = 10
"""The number of flowers for evaluation: the last of the permutation."""


def train(seed: int) -> tuple[KNeighborsClassifier, int]:
    """Return a classifier, and the number of held-out flowers that it classifies correctly."""
    flowers, species = load_iris(return_X_y=True)
    order = numpy.random.RandomState(seed).permutation(len(flowers))
    training, held_out = order[:-HELD_OUT], order[-HELD_OUT:]
    model = KNeighborsClassifier().fit(flowers[training], species[training])
    return model, int((model.predict(flowers[held_out]) == species[held_out]).sum())


def main() -> None:
    """Train with the options of the command line, and write OUT/knn.skops."""
    parser = argparse.ArgumentParser(prog="python -m functions.knn.train", description=__doc__)
    add = parser.add_argument
    add("--seed", type=int, default=0, help="seed of the permutation (default: %(default)s)")
    text = "folder for the classifier (default: %(default)s)"
    add("--out", type=Path, default=Path("build/knn"), help=text)
    args = parser.parse_args()
    model, correct = train(args.seed)
    args.out.mkdir(parents=True, exist_ok=True)
    iris.save(model, args.out / iris.FILE)
    iris.load(args.out)  # fails here, not in the function, if the file cannot be read
    print(f"{correct}/{HELD_OUT} held-out flowers classified correctly")
    print(f"{args.out / iris.FILE}  {(args.out / iris.FILE).stat().st_size / 1024:.0f} KiB")


if __name__ == "__main__":
    main()
