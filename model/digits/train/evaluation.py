"""Evaluate a network on digits of other writers, drawn differently from the training images.

A network classifies nearly all further scans of the scanner that it was trained on, so these measure little.
The held-out scans are therefore also redrawn in ways that training does not use: with a flat brush instead of a
round pen, and with a perspective instead of an elastic distortion; then as a coarse white-on-black scan, or as a
photograph of paper with shade, grain and JPEG blocks.
"""

import base64
import io
import random
from collections.abc import Callable, Sequence
from pathlib import Path
from statistics import fmean
from typing import NamedTuple

import torch
from normalise import normalise
from PIL import Image, ImageChops, ImageDraw, ImageFilter, ImageOps
from sklearn.metrics import confusion_matrix
from torch import nn

from train.data import Data

REPEATS = 4
"""How often each held-out digit is drawn in each random variant."""


class Sample(NamedTuple):
    """A held-out digit as a client would send it."""

    variant: str
    """How it was drawn: a key of VARIANTS."""
    image: Image.Image
    label: str

    @property
    def base64(self) -> str:
        """The image as a PNG in base64."""
        file = io.BytesIO()
        self.image.save(file, "PNG")
        return base64.b64encode(file.getvalue()).decode()


def draw_samples(data: Data, seed: int, limit: int = 0) -> list[Sample]:
    """Draw the held-out digits in each of the VARIANTS; about `limit` images if it is not 0."""
    total = len(data.held_out) * (1 + REPEATS * (len(VARIANTS) - 1))
    examples = data.held_out[:: -(-total // limit) if limit else 1]
    samples = []
    for variant, draw in VARIANTS.items():
        rng = random.Random(seed)
        for example in examples * (1 if variant == AS_SCANNED else REPEATS):
            samples.append(Sample(variant, draw(example.image, rng), data.labels[example.target]))
    return samples


def predict(
    net: nn.Module, samples: list[Sample], labels: list[str]
) -> tuple[list[str], list[float]]:
    """Return the predicted label of each image, and its score."""
    ink = torch.stack([normalise(sample.image) for sample in samples]).unsqueeze(1) / 255
    with torch.inference_mode():
        best = torch.cat([net(part).softmax(1) for part in torch.split(ink, 512)]).max(1)
    return [labels[index] for index in best.indices.tolist()], best.values.tolist()


def accuracy_by_variant(samples: list[Sample], predicted: list[str]) -> dict[str, float]:
    """Return the share of correct labels for each variant."""
    correct: dict[str, list[bool]] = {}
    for sample, label in zip(samples, predicted, strict=True):
        correct.setdefault(sample.variant, []).append(sample.label == label)
    return {variant: fmean(results) for variant, results in correct.items()}


def _small_scan(scan: Image.Image, rng: random.Random) -> Image.Image:
    """Draw 28x28 pixels, white on black, with the digit in the middle 20x20."""
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
    image = ImageChops.add(paper, grain, 1, -128)
    image = image.filter(ImageFilter.GaussianBlur(rng.uniform(0, 1.2)))
    jpeg = io.BytesIO()
    image.save(jpeg, "JPEG", quality=rng.randint(40, 95))
    return Image.open(jpeg).convert("L")


AS_SCANNED, SMALL_SCAN = "as scanned", "another pen, 28x28 white on black"
VARIANTS: dict[str, Callable[[Image.Image, random.Random], Image.Image]] = {
    AS_SCANNED: lambda scan, _: scan,
    SMALL_SCAN: _small_scan,
    "photographed, black on white": _photograph,
}


def _redraw(scan: Image.Image, rng: random.Random) -> Image.Image:
    """Draw the digit with a flat brush of a random width and in perspective: 160x160 pixels."""
    framed = ImageOps.expand(scan.resize((130, 130), Image.Resampling.LANCZOS), 15)
    sharp = framed.filter(ImageFilter.UnsharpMask(radius=8, percent=200, threshold=0))
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
    folder: Path, samples: list[Sample], predicted: list[str], labels: Sequence[str]
) -> str:
    """Write confusion.txt and misread.png into a folder.

    Return the confusion matrix as text: a row per label, a column per predicted label.
    """
    folder.mkdir(parents=True, exist_ok=True)
    counts = confusion_matrix([sample.label for sample in samples], predicted, labels=labels)
    width = max(5, *(len(label) + 1 for label in labels))
    rows = [["", *labels], *([label, *row] for label, row in zip(labels, counts, strict=True))]
    table = "\n".join("".join(str(cell).rjust(width) for cell in row) for row in rows)
    (folder / "confusion.txt").write_text(f"{table}\n")
    _draw_misread(samples, predicted).save(folder / "misread.png")
    return table


def _draw_misread(samples: list[Sample], predicted: list[str]) -> Image.Image:
    """Draw up to 60 misread digits in a grid, each above "label > predicted label"."""
    pairs = zip(samples, predicted, strict=True)
    misread = [(sample, label) for sample, label in pairs if sample.label != label]
    drawn = random.Random(0).sample(misread, min(60, len(misread)))
    sheet = Image.new("L", (840, 100 * max(-(-len(drawn) // 10), 1)), "white")
    for number, (sample, label) in enumerate(drawn):
        x, y = number % 10 * 84, number // 10 * 100
        sheet.paste(sample.image.resize((80, 80)), (x + 2, y + 2))
        ImageDraw.Draw(sheet).text((x + 4, y + 82), f"{sample.label} > {label}", fill="black")
    return sheet
