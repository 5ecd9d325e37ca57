"""The pictures to learn from: scikit-learn's digits, or a folder with a folder per class."""

from pathlib import Path
from typing import NamedTuple

import numpy as np
from PIL import Image
from sklearn.datasets import load_digits

from model.normalise import crop_to_ink
from model.train.glyphs import draw_glyph, read_forms
from task import BadInstance
from task.images import decode_image

HELD_OUT = 0.15
"""The share of each class, the last of it, that is kept for the evaluation."""
GLYPHS = 150
"""How many digits of each class are drawn by glyphs.txt: about as many as there are scans."""
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


class BadData(Exception):
    """A data folder that cannot be trained on; the text says what to change."""


def digits() -> Data:
    """Return scikit-learn's 1,797 scans of 8x8, and glyphs to train on.

    The scans are in the order of their writers, so the held-out ones are by other people.
    """
    pictures: dict[str, list[Image.Image]] = {label: [] for label in "0123456789"}
    bunch = load_digits()
    for scan, target in zip(bunch.images, bunch.target, strict=True):
        pictures[str(target)].append(Image.fromarray((scan * 255 / 16).astype(np.uint8)))
    data = _split("scikit-learn's digits, and glyphs.txt", pictures)
    rng = np.random.default_rng(0)
    for label, forms in read_forms().items():
        drawn = [draw_glyph(forms[number % len(forms)], rng) for number in range(GLYPHS)]
        data.training.extend(Example(glyph, data.labels.index(label)) for glyph in drawn)
    return data


def folder(path: Path) -> Data:
    """Return the pictures of FOLDER/LABEL/*.png (or .jpg, .jpeg, .webp); raise BadData."""
    if not path.is_dir():
        raise BadData(f"{path} is not a folder")
    pictures = {}
    for entry in sorted(entry for entry in path.iterdir() if entry.is_dir()):
        files = sorted(file for file in entry.iterdir() if file.suffix.lower() in SUFFIXES)
        if len(files) < 2:
            raise BadData(f"{entry} needs at least two pictures ({', '.join(SUFFIXES)})")
        pictures[entry.name] = [_read(file) for file in files]
    if len(pictures) < 2:
        raise BadData(f"{path} needs a folder of pictures per class, and at least two classes")
    return _split(str(path), pictures)


def _read(file: Path) -> Image.Image:
    try:
        digit = crop_to_ink(decode_image(file.read_bytes()))
    except BadInstance as error:
        raise BadData(f"{file}: {error}") from error
    if digit is None:
        raise BadData(f"{file}: the picture is blank")
    return digit


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
    side = max(digit.size) + 2 * max(max(digit.size) // 8, 1)
    square = Image.new("L", (side, side))
    square.paste(digit, ((side - digit.width) // 2, (side - digit.height) // 2))
    return square
