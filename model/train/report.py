"""Examine a network on the held-out digits and show a person what it got wrong."""

import random
from typing import NamedTuple

import torch
from PIL import Image, ImageDraw
from torch import Tensor, nn

from model.normalise import normalise
from model.train.data import Data
from model.train.exam import EXAMINERS

REPEATS = 4
"""How often each held-out digit is drawn anew for an examination by chance."""


class Sitting(NamedTuple):
    """What one examination gave."""

    pictures: list[Image.Image]
    """The pictures as a client would send them."""
    wanted: Tensor
    """(N,) the targets."""
    scores: Tensor
    """(N, classes) the probabilities."""

    @property
    def accuracy(self) -> float:
        """The share of pictures read right."""
        return float((self.scores.argmax(1) == self.wanted).float().mean())


def examine(net: nn.Module, data: Data, seed: int) -> dict[str, Sitting]:
    """Put the held-out digits to the network in each of the examiners' ways."""
    sittings = {}
    for name, examiner in EXAMINERS.items():
        rng = random.Random(seed)
        repeats = 1 if name == "as scanned" else REPEATS
        shown = [examiner(e.picture, rng) for _ in range(repeats) for e in data.held_out]
        wanted = torch.tensor([e.target for _ in range(repeats) for e in data.held_out])
        ink = torch.stack([normalise(picture) for picture in shown]).unsqueeze(1) / 255
        with torch.inference_mode():
            scores = torch.cat([net(chunk).softmax(1) for chunk in torch.split(ink, 512)])
        sittings[name] = Sitting(shown, wanted, scores)
    return sittings


def confusion(sittings: dict[str, Sitting], labels: list[str]) -> str:
    """Tell in a table how often each label (a row) was read as each (a column)."""
    counts = torch.zeros(len(labels), len(labels), dtype=torch.int64)
    for sitting in sittings.values():
        cells = sitting.wanted * len(labels) + sitting.scores.argmax(1)
        counts += cells.bincount(minlength=len(labels) ** 2).view_as(counts)
    wide = max(5, *(len(label) + 1 for label in labels))
    head = "".join(label.rjust(wide) for label in labels)
    rows = [
        label.rjust(wide) + "".join((str(n) if n else "·").rjust(wide) for n in row)
        for label, row in zip(labels, counts.tolist(), strict=True)
    ]
    return "\n".join([" " * wide + head, *rows])


def misread(sittings: dict[str, Sitting], labels: list[str], most: int = 60) -> Image.Image:
    """Draw the misread digits in a grid, each with "what it is > what was read"."""
    wrong = [
        (picture, f"{labels[wanted]} > {labels[int(scores.argmax())]}")
        for sitting in sittings.values()
        for picture, wanted, scores in zip(*sitting, strict=True)
        if int(scores.argmax()) != int(wanted)
    ]
    shown = random.Random(0).sample(wrong, min(most, len(wrong)))
    columns, cell, text = 10, 84, 16
    rows = max(-(-len(shown) // columns), 1)
    sheet = Image.new("L", (columns * cell, rows * (cell + text)), "white")
    pen = ImageDraw.Draw(sheet)
    for number, (picture, caption) in enumerate(shown):
        x, y = number % columns * cell, number // columns * (cell + text)
        sheet.paste(picture.resize((cell - 4, cell - 4)), (x + 2, y + 2))
        pen.text((x + 4, y + cell - 2), caption, fill="black")
    return sheet
