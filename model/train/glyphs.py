"""Digits drawn as people write them, by the forms of glyphs.txt: hands that no scan shows."""

from collections.abc import Iterator
from pathlib import Path

import numpy as np
import numpy.typing as npt
from PIL import Image, ImageDraw
from scipy.interpolate import make_interp_spline

SIDE, PEN = 110, 7
"""Pixels: a picture's side, the pen's width. Every eighth pixel from the edge is room to bend."""
JITTER, SHIFT = 3.5, 2.5
"""How far, in hundredths of the digit, points and whole strokes stray from the form."""


def glyphs(count: int, seed: int) -> Iterator[tuple[Image.Image, str]]:
    """Give `count` times each form, every time otherwise: ink bright on black, and its label."""
    rng = np.random.default_rng(seed)
    lines = (Path(__file__).parent / "glyphs.txt").read_text().splitlines()
    forms = [line.split(maxsplit=1) for line in lines if not line.startswith("#")]
    for _ in range(count):
        for label, strokes in forms:
            yield _glyph(strokes, rng), label


def _glyph(strokes: str, rng: np.random.Generator) -> Image.Image:
    picture = Image.new("L", (SIDE, SIDE))
    pen = ImageDraw.Draw(picture)
    for stroke in strokes.split("/"):
        shift, pieces = rng.normal(0, SHIFT, 2), [[]]
        for word in stroke.split():
            point = np.array(word.rstrip("!").split(","), float) + shift + rng.normal(0, JITTER, 2)
            pieces[-1].append(SIDE * (0.125 + 0.0075 * point))
            if word.endswith("!"):
                pieces.append([pieces[-1][-1]])
        for piece in pieces:
            line = [tuple(point) for point in _curve(np.array(piece))]
            pen.line(line, 255, PEN, joint="curve")
            for x, y in (line[0], line[-1]):
                pen.ellipse((x - PEN / 2, y - PEN / 2, x + PEN / 2, y + PEN / 2), 255)
    return picture


def _curve(points: npt.NDArray[np.float64]) -> npt.NDArray[np.float64]:
    """Return a smooth line through the points."""
    along = np.cumsum([0, *np.hypot(*np.diff(points, axis=0).T)])
    spline = make_interp_spline(along, points, k=min(3, len(points) - 1))
    return spline(np.linspace(0, along[-1], 40))
