"""Load the images to train on: scikit-learn's digits, or a folder with one subfolder per class."""

from pathlib import Path
from typing import NamedTuple

import numpy as np
from normalise import crop_to_ink
from PIL import Image, ImageOps
from sklearn.datasets import load_digits

from task import BadInstance
from task.images import decode_image
from train.glyphs import draw_glyphs

HELD_OUT_SHARE = 0.15
"""The share of each class, its last images, that is held out for evaluation."""
SUFFIXES = (".jpeg", ".jpg", ".png", ".webp")


class Example(NamedTuple):
    """A square image of mode "L", ink bright on black with a margin, and the index of its label."""

    image: Image.Image
    target: int


class Data(NamedTuple):
    """Images for training and, disjoint from these, for evaluation."""

    source: str
    labels: list[str]
    training: list[Example]
    held_out: list[Example]


class DataError(Exception):
    """A folder cannot be used for training. The text says what to change."""


def load_data(folder: Path | None) -> Data:
    """Return the images of FOLDER/LABEL/*.png (or .jpg, .jpeg, .webp), or the digits for None.

    Raises DataError.
    """
    return _split(str(folder), _load_folder(folder)) if folder else _load_digits()


def _load_digits() -> Data:
    """Return scikit-learn's 1,797 scans of 8x8 pixels, and glyphs for training.

    The scans are ordered by writer, so the held-out ones are by other people.
    """
    images: dict[str, list[Image.Image]] = {label: [] for label in "0123456789"}
    digits = load_digits()
    for scan, target in zip(digits.images, digits.target, strict=True):
        images[str(target)].append(Image.fromarray((scan * 255 / 16).astype(np.uint8)))
    data = _split("scikit-learn's digits, and glyphs.txt", images)
    data.training.extend(Example(glyph, int(label)) for label, glyph in draw_glyphs())
    return data


def _load_folder(path: Path) -> dict[str, list[Image.Image]]:
    files = {
        entry.name: sorted(file for file in entry.iterdir() if file.suffix.lower() in SUFFIXES)
        for entry in sorted(path.glob("*/"))
    }
    if len(files) < 2 or min(map(len, files.values())) < 2:
        counts = ", ".join(f"{label}: {len(paths)}" for label, paths in files.items())
        raise DataError(
            f"{path}: expected one subfolder per class, at least two classes, each with at least two "
            f"images ({', '.join(SUFFIXES)}); got {counts or 'no subfolder'}"
        )
    return {label: [_load_image(file) for file in paths] for label, paths in files.items()}


def _load_image(file: Path) -> Image.Image:
    try:
        if digit := crop_to_ink(decode_image(file.read_bytes())):
            return digit
    except BadInstance as error:
        raise DataError(f"{file}: {error}") from error
    raise DataError(f"{file}: the image is blank")


def _split(source: str, images: dict[str, list[Image.Image]]) -> Data:
    data = Data(source, list(images), training=[], held_out=[])
    for target, of_class in enumerate(images.values()):
        examples = [Example(_add_margin(image), target) for image in of_class]
        count = min(round(len(examples) * (1 - HELD_OUT_SHARE)), len(examples) - 1)
        data.training.extend(examples[:count])
        data.held_out.extend(examples[count:])
    return data


def _add_margin(digit: Image.Image) -> Image.Image:
    """Centre a digit in a square, with a margin of an eighth of its longer side."""
    framed = ImageOps.expand(digit, max(max(digit.size) // 8, 1))
    return ImageOps.pad(framed, (max(framed.size), max(framed.size)))
