"""The pictures to learn from: scikit-learn's digits, or a folder with a folder per class."""

from pathlib import Path
from typing import NamedTuple

import numpy as np
from PIL import Image, ImageOps
from sklearn.datasets import load_digits

from model.normalise import crop_to_ink
from model.train.glyphs import draw_glyphs
from task import BadInstance
from task.images import decode_image

HELD_OUT = 0.15
"""The share of each class, the last of it, that is kept for the evaluation."""
SUFFIXES = (".jpeg", ".jpg", ".png", ".webp")


class Example(NamedTuple):
    """A square of mode "L", ink bright on black with room around it; the index of its label."""

    picture: Image.Image
    target: int


class Data(NamedTuple):
    """What to train on and what to evaluate with; the two share no picture."""

    source: str
    labels: list[str]
    training: list[Example]
    held_out: list[Example]


class DataError(Exception):
    """A data folder that cannot be trained on; the text says what to change."""


def load(folder: Path | None) -> Data:
    """Return the pictures of FOLDER/LABEL/*.png (or .jpg, .jpeg, .webp), the digits if None.

    Raises BadData.
    """
    return _split(str(folder), _folder(folder)) if folder else _digits()


def _digits() -> Data:
    """Return scikit-learn's 1,797 scans of 8x8, and glyphs to train on.

    The scans are in the order of their writers, so the held-out ones are by other people.
    """
    pictures: dict[str, list[Image.Image]] = {label: [] for label in "0123456789"}
    bunch = load_digits()
    for scan, target in zip(bunch.images, bunch.target, strict=True):
        pictures[str(target)].append(Image.fromarray((scan * 255 / 16).astype(np.uint8)))
    data = _split("scikit-learn's digits, and glyphs.txt", pictures)
    data.training.extend(Example(glyph, int(label)) for label, glyph in draw_glyphs())
    return data


def _folder(path: Path) -> dict[str, list[Image.Image]]:
    files = {
        entry.name: sorted(file for file in entry.iterdir() if file.suffix.lower() in SUFFIXES)
        for entry in sorted(path.glob("*/"))
    }
    if len(files) < 2 or min(map(len, files.values())) < 2:
        raise DataError(
            f"{path} needs a folder of pictures per class, at least two classes and at least two "
            f"pictures ({', '.join(SUFFIXES)}) of each; got "
            f"{', '.join(f'{label}: {len(of)}' for label, of in files.items()) or 'no folder'}"
        )
    return {label: [_read(file) for file in of_label] for label, of_label in files.items()}


def _read(file: Path) -> Image.Image:
    try:
        if digit := crop_to_ink(decode_image(file.read_bytes())):
            return digit
    except BadInstance as error:
        raise DataError(f"{file}: {error}") from error
    raise DataError(f"{file}: the picture is blank")


def _split(source: str, pictures: dict[str, list[Image.Image]]) -> Data:
    data = Data(source, list(pictures), training=[], held_out=[])
    for target, of_class in enumerate(pictures.values()):
        examples = [Example(_frame(picture), target) for picture in of_class]
        count = min(round(len(examples) * (1 - HELD_OUT)), len(examples) - 1)
        data.training.extend(examples[:count])
        data.held_out.extend(examples[count:])
    return data


def _frame(digit: Image.Image) -> Image.Image:
    """Lay a digit into the middle of a square, with an eighth of its longer side around it."""
    framed = ImageOps.expand(digit, max(max(digit.size) // 8, 1))
    return ImageOps.pad(framed, (max(framed.size), max(framed.size)))
