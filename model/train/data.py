"""The pictures to learn from: scikit-learn's digits, or a folder with a folder per class."""

import io
from pathlib import Path
from typing import NamedTuple

import numpy as np
from PIL import Image
from sklearn.datasets import load_digits

from model.normalise import cut_out
from model.picture import decode
from task import BadInstance

HELD_OUT = 0.15
"""The share of each class, the last of it, that is kept for the examination."""
SUFFIXES = {".png", ".jpg", ".jpeg", ".webp"}


class Example(NamedTuple):
    """One picture and what it shows."""

    picture: Image.Image
    """A square of mode "L", ink bright on black, the digit in its middle with room around it."""
    target: int
    """The index of its label."""


class Data(NamedTuple):
    """What to train on and what to examine with; the two share no picture."""

    source: str
    labels: list[str]
    training: list[Example]
    held_out: list[Example]


class BadData(Exception):
    """A data folder that cannot be trained on; the text says what to change."""


def digits() -> Data:
    """Return the 1,797 scans of 8x8 that come with scikit-learn.

    They lie in the order in which their writers wrote them, so that the last of them are
    by people whose hand was not trained on.
    """
    bunch = load_digits()
    scans = [_framed(Image.fromarray((s * 255 / 16).astype(np.uint8))) for s in bunch.images]
    names = [str(name) for name in bunch.target_names]
    return _split("scikit-learn's digits", names, scans, bunch.target.tolist())


def folder(path: Path) -> Data:
    """Return the pictures of FOLDER/LABEL/*.png (or .jpg, .jpeg, .webp); raise BadData."""
    if not path.is_dir():
        raise BadData(f"{path} is not a folder")
    classes = sorted(entry for entry in path.iterdir() if entry.is_dir())
    if len(classes) < 2:
        raise BadData(f"{path} needs a folder of pictures per class, and two classes at least")
    pictures, targets = [], []
    for target, entry in enumerate(classes):
        files = sorted(file for file in entry.iterdir() if file.suffix.lower() in SUFFIXES)
        if len(files) < 2:
            raise BadData(f"{entry} needs two pictures at least, of {', '.join(sorted(SUFFIXES))}")
        for file in files:
            pictures.append(_from_file(file))
            targets.append(target)
    return _split(str(path), [entry.name for entry in classes], pictures, targets)


def _split(source: str, labels: list[str], pictures: list[Image.Image], targets: list[int]) -> Data:
    training: list[Example] = []
    held_out: list[Example] = []
    for target in range(len(labels)):
        of_class = [
            Example(picture, target)
            for picture, of in zip(pictures, targets, strict=True)
            if of == target
        ]
        kept = min(round(len(of_class) * (1 - HELD_OUT)), len(of_class) - 1)
        training += of_class[:kept]
        held_out += of_class[kept:]
    return Data(source, labels, training, held_out)


def _from_file(file: Path) -> Image.Image:
    try:
        digit = cut_out(decode(file.read_bytes()))
    except BadInstance as error:
        raise BadData(f"{file}: {error}") from error
    if digit is None:
        raise BadData(f"{file}: no ink to be seen, all of it is one shade")
    return _framed(digit)


def _framed(digit: Image.Image) -> Image.Image:
    side = max(digit.size)
    margin = max(side // 8, 1)
    square = Image.new("L", (side + 2 * margin,) * 2)
    square.paste(digit, ((square.width - digit.width) // 2, (square.height - digit.height) // 2))
    return square


def png(picture: Image.Image) -> bytes:
    """Encode a picture as a PNG file."""
    file = io.BytesIO()
    picture.save(file, "PNG")
    return file.getvalue()
