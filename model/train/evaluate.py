"""Evaluate a network on digits of writers it was not trained on, brought in by other means.

A network reads nearly all further scans of the scanner that it was trained on, so those say
little. Here the held-out scans are also drawn again in ways that training does not use: a
flat brush in place of a round pen, a perspective in place of a rubber sheet, then either a
coarse white-on-black scan, or a photograph of paper with its shade, grain and JPEG blocks.
"""

import io
import random
from collections.abc import Callable
from itertools import chain
from pathlib import Path
from typing import NamedTuple

import torch
from PIL import Image, ImageChops, ImageDraw, ImageFilter
from sklearn.metrics import confusion_matrix
from torch import nn

from model.normalise import normalise
from model.train.data import Data, Example

REPEATS = 4
"""How many times each held-out digit is drawn in a way that depends on chance."""


class Evaluation(NamedTuple):
    """Pictures as a client would send them, the right labels, the answers and their scores."""

    pictures: list[Image.Image]
    labels: list[str]
    answers: list[str]
    scores: list[float]

    @property
    def accuracy(self) -> float:
        """The share of pictures read right."""
        return sum(map(str.__eq__, self.labels, self.answers)) / len(self.labels)


def evaluate(net: nn.Module, data: Data, seed: int) -> dict[str, Evaluation]:
    """Read the held-out digits, drawn in each of the ways of VARIANTS."""
    evaluations = {}
    for name in VARIANTS:
        pictures, targets = zip(*redraw(name, data.held_out, seed), strict=True)
        ink = torch.stack([normalise(picture) for picture in pictures]).unsqueeze(1) / 255
        with torch.inference_mode():
            best = torch.cat([net(part).softmax(1) for part in torch.split(ink, 512)]).max(1)
        labels, answers = ([data.labels[i] for i in of] for of in (targets, best.indices.tolist()))
        evaluations[name] = Evaluation(list(pictures), labels, answers, best.values.tolist())
    return evaluations


def redraw(name: str, examples: list[Example], seed: int) -> list[Example]:
    """Draw examples in one of the ways of VARIANTS."""
    rng = random.Random(seed)
    every = examples * (1 if name == "as scanned" else REPEATS)
    return [Example(VARIANTS[name](each.picture, rng), each.target) for each in every]


def _small_scan(scan: Image.Image, rng: random.Random) -> Image.Image:
    """Draw 28x28, white on black, the digit in the middle 20x20, by another pen."""
    ink = _redraw(scan, rng)
    digit = ink.crop(ink.getbbox())
    digit.thumbnail((20, 20), Image.Resampling.BOX)
    sheet = Image.new("L", (28, 28))
    sheet.paste(digit, ((28 - digit.width) // 2, (28 - digit.height) // 2))
    return sheet


def _photograph(scan: Image.Image, rng: random.Random) -> Image.Image:
    """Draw a photograph of dark ink on light paper: shade, grain, blur and JPEG blocks."""
    ink = _redraw(scan, rng).resize((rng.randint(60, 160),) * 2, Image.Resampling.BOX)
    side = rng.randint(ink.width, 2 * ink.width)
    mask = Image.new("L", (side, side))
    mask.paste(ink, (rng.randint(0, side - ink.width), rng.randint(0, side - ink.height)))
    light, dark = rng.randint(150, 250), rng.randint(10, 90)
    shade = Image.linear_gradient("L").rotate(rng.choice((0, 90, 180, 270))).resize((side, side))
    depth = rng.uniform(0, 0.35)
    paper = shade.point(lambda level: int(light * (1 - depth * level / 255)))
    grain = Image.effect_noise((side, side), rng.uniform(2, 14))
    inked = Image.composite(Image.new("L", (side, side), dark), paper, mask)
    picture = ImageChops.add(inked, grain, 1, -128)
    picture = picture.filter(ImageFilter.GaussianBlur(rng.uniform(0, 1.2)))
    jpeg = io.BytesIO()
    picture.save(jpeg, "JPEG", quality=rng.randint(40, 95))
    return Image.open(jpeg).convert("L")


SMALL_SCAN = "another pen, 28x28 white on black"
VARIANTS: dict[str, Callable[[Image.Image, random.Random], Image.Image]] = {
    "as scanned": lambda scan, _: scan,
    SMALL_SCAN: _small_scan,
    "photographed, black on white": _photograph,
}


def _redraw(scan: Image.Image, rng: random.Random) -> Image.Image:
    """Draw the digit with a flat brush of another width, seen from a slant: 160x160."""
    room = Image.new("L", (160, 160))
    room.paste(scan.resize((130, 130), Image.Resampling.LANCZOS), (15, 15))
    sharp = room.filter(ImageFilter.UnsharpMask(radius=8, percent=200, threshold=0))
    level = rng.randint(95, 165)
    ink = sharp.point(lambda value: 255 * (value > level))
    brush = rng.choice((1, 1, 3, 5, 7))
    if brush > 1:
        ink = ink.filter(rng.choice((ImageFilter.MaxFilter, ImageFilter.MinFilter))(brush))
    lean, reach = rng.uniform(-22, 22), 10
    corners = ((lean, 0), (-lean, 160), (160 - lean, 160), (160 + lean, 0))
    quad = [edge + rng.uniform(-reach, reach) for corner in corners for edge in corner]
    return ink.transform((160, 160), Image.Transform.QUAD, quad, resample=Image.Resampling.BILINEAR)


def write_report(folder: Path, evaluations: dict[str, Evaluation], labels: list[str]) -> str:
    """Write confusion.txt and misread.png into a folder; return the table of confusions."""
    folder.mkdir(parents=True, exist_ok=True)
    table = confusion_table(evaluations, labels)
    (folder / "confusion.txt").write_text(f"{table}\n")
    draw_misread(evaluations).save(folder / "misread.png")
    return table


def confusion_table(evaluations: dict[str, Evaluation], labels: list[str]) -> str:
    """Return a table of how often each label (a row) was read as each (a column)."""
    counts = sum(confusion_matrix(e.labels, e.answers, labels=labels) for e in evaluations.values())
    rows = [["", *labels], *([label, *row] for label, row in zip(labels, counts, strict=True))]
    wide = max(5, *(len(label) + 1 for label in labels))
    return "\n".join("".join(str(cell).rjust(wide) for cell in row) for row in rows)


def draw_misread(evaluations: dict[str, Evaluation]) -> Image.Image:
    """Draw up to 60 misread digits in a grid, each above "the right label > the answer"."""
    every = chain.from_iterable(zip(*each[:3], strict=True) for each in evaluations.values())
    misread = [
        (picture, f"{label} > {answer}") for picture, label, answer in every if label != answer
    ]
    shown = random.Random(0).sample(misread, min(60, len(misread)))
    sheet = Image.new("L", (840, 100 * max(-(-len(shown) // 10), 1)), "white")
    pen = ImageDraw.Draw(sheet)
    for number, (picture, caption) in enumerate(shown):
        x, y = number % 10 * 84, number // 10 * 100
        sheet.paste(picture.resize((80, 80)), (x + 2, y + 2))
        pen.text((x + 4, y + 82), caption, fill="black")
    return sheet
