"""Evaluate a network on digits of writers it was not trained on, drawn by other means.

A network reads nearly all further scans of the scanner that it was trained on, so those say
little. Here the held-out scans are also drawn again in ways that training does not use: a
flat brush in place of a round pen, a perspective in place of a rubber sheet, then either a
coarse white-on-black scan, or a photograph of paper with its shade, grain and JPEG blocks.
"""

import base64
import io
import random
from collections.abc import Callable, Sequence
from pathlib import Path
from statistics import fmean
from typing import NamedTuple

import torch
from PIL import Image, ImageChops, ImageDraw, ImageFilter, ImageOps
from sklearn.metrics import confusion_matrix
from torch import nn

from model.normalise import normalise
from model.train.data import Data

REPEATS = 4
"""How many times each held-out digit is drawn in a way that depends on chance."""


class Shown(NamedTuple):
    """A held-out digit as a client would send it."""

    way: str
    """How it was drawn: a name in VARIANTS."""
    picture: Image.Image
    label: str

    @property
    def base64(self) -> str:
        """The picture as a PNG in base64."""
        file = io.BytesIO()
        self.picture.save(file, "PNG")
        return base64.b64encode(file.getvalue()).decode()


def redraw(data: Data, seed: int, limit: int = 0) -> list[Shown]:
    """Draw the held-out digits in each of the ways of VARIANTS; about `limit` pictures if not 0."""
    total = len(data.held_out) * (1 + REPEATS * (len(VARIANTS) - 1))
    chosen = data.held_out[:: -(-total // limit) if limit else 1]
    shown = []
    for way, variant in VARIANTS.items():
        rng = random.Random(seed)
        for example in chosen * (1 if way == AS_SCANNED else REPEATS):
            shown.append(Shown(way, variant(example.picture, rng), data.labels[example.target]))
    return shown


def predict(net: nn.Module, shown: list[Shown], labels: list[str]) -> tuple[list[str], list[float]]:
    """Return the label that a network gives each picture, and the label's score."""
    ink = torch.stack([normalise(each.picture) for each in shown]).unsqueeze(1) / 255
    with torch.inference_mode():
        best = torch.cat([net(part).softmax(1) for part in torch.split(ink, 512)]).max(1)
    return [labels[index] for index in best.indices.tolist()], best.values.tolist()


def accuracies(shown: list[Shown], answers: list[str]) -> dict[str, float]:
    """Return the share of pictures read right, for each way of drawing."""
    right: dict[str, list[bool]] = {}
    for each, answer in zip(shown, answers, strict=True):
        right.setdefault(each.way, []).append(each.label == answer)
    return {way: fmean(of_way) for way, of_way in right.items()}


def _small_scan(scan: Image.Image, rng: random.Random) -> Image.Image:
    """Draw 28x28, white on black, the digit in the middle 20x20, by another pen."""
    ink = _redraw(scan, rng)
    digit = ImageOps.pad(ink.crop(ink.getbbox()), (20, 20), Image.Resampling.BOX)
    return ImageOps.expand(digit, 4)


def _photograph(scan: Image.Image, rng: random.Random) -> Image.Image:
    """Draw a photograph of dark ink on light paper: shade, grain, blur and JPEG blocks."""
    ink = _redraw(scan, rng).resize((rng.randint(60, 160),) * 2, Image.Resampling.BOX)
    side = rng.randint(ink.width, 2 * ink.width)
    corner = rng.randint(0, side - ink.width), rng.randint(0, side - ink.height)
    light, dark = rng.randint(150, 250), rng.randint(10, 90)
    shade = Image.linear_gradient("L").rotate(rng.choice((0, 90, 180, 270))).resize((side, side))
    depth = rng.uniform(0, 0.35)
    paper = shade.point(lambda level: int(light * (1 - depth * level / 255)))
    paper.paste(dark, corner, mask=ink)
    grain = Image.effect_noise((side, side), rng.uniform(2, 14))
    picture = ImageChops.add(paper, grain, 1, -128)
    picture = picture.filter(ImageFilter.GaussianBlur(rng.uniform(0, 1.2)))
    jpeg = io.BytesIO()
    picture.save(jpeg, "JPEG", quality=rng.randint(40, 95))
    return Image.open(jpeg).convert("L")


AS_SCANNED, SMALL_SCAN = "as scanned", "another pen, 28x28 white on black"
VARIANTS: dict[str, Callable[[Image.Image, random.Random], Image.Image]] = {
    AS_SCANNED: lambda scan, _: scan,
    SMALL_SCAN: _small_scan,
    "photographed, black on white": _photograph,
}


def _redraw(scan: Image.Image, rng: random.Random) -> Image.Image:
    """Draw the digit with a flat brush of another width, seen from a slant: 160x160."""
    room = ImageOps.expand(scan.resize((130, 130), Image.Resampling.LANCZOS), 15)
    sharp = room.filter(ImageFilter.UnsharpMask(radius=8, percent=200, threshold=0))
    level = rng.randint(95, 165)
    ink = sharp.point(lambda value: 255 * (value > level))
    brush = rng.choice((1, 1, 3, 5, 7))
    if brush > 1:
        ink = ink.filter(rng.choice((ImageFilter.MaxFilter, ImageFilter.MinFilter))(brush))
    lean, reach = rng.uniform(-22, 22), 10
    corners = (lean, 0, -lean, 160, 160 - lean, 160, 160 + lean, 0)
    quad = [edge + rng.uniform(-reach, reach) for edge in corners]
    return ink.transform((160, 160), Image.Transform.QUAD, quad, resample=Image.Resampling.BILINEAR)


def write_report(
    folder: Path, shown: list[Shown], answers: list[str], labels: Sequence[str]
) -> str:
    """Write confusion.txt and misread.png into a folder.

    Return the table of how often each label (a row) was read as each (a column).
    """
    folder.mkdir(parents=True, exist_ok=True)
    counts = confusion_matrix([each.label for each in shown], answers, labels=labels)
    width = max(5, *(len(label) + 1 for label in labels))
    rows = [["", *labels], *([label, *row] for label, row in zip(labels, counts, strict=True))]
    table = "\n".join("".join(str(cell).rjust(width) for cell in row) for row in rows)
    (folder / "confusion.txt").write_text(f"{table}\n")
    _draw_misread(shown, answers).save(folder / "misread.png")
    return table


def _draw_misread(shown: list[Shown], answers: list[str]) -> Image.Image:
    """Draw up to 60 misread digits in a grid, each above "the right label > the answer"."""
    read = zip(shown, answers, strict=True)
    misread = [(each, answer) for each, answer in read if each.label != answer]
    some = random.Random(0).sample(misread, min(60, len(misread)))
    sheet = Image.new("L", (840, 100 * max(-(-len(some) // 10), 1)), "white")
    for number, (each, answer) in enumerate(some):
        x, y = number % 10 * 84, number // 10 * 100
        sheet.paste(each.picture.resize((80, 80)), (x + 2, y + 2))
        ImageDraw.Draw(sheet).text((x + 4, y + 82), f"{each.label} > {answer}", fill="black")
    return sheet
