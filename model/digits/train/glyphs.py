"""Draw digits in the forms of glyphs.txt, which the scans do not have."""

from collections.abc import Iterator
from pathlib import Path

import numpy as np
from PIL import Image, ImageDraw
from scipy.interpolate import make_interp_spline

SIDE, PEN = 110, 7
"""Pixels: the side of an image, with a blank margin of an eighth at each edge; the width of the pen."""
STROKE_SHIFT, POINT_SHIFT = 2.5, 3.5
"""Standard deviations of the shifts of strokes and points, in hundredths of a digit's height."""
COUNT = 150
"""The number of digits drawn for each label: about the number of scans."""


def draw_glyphs() -> Iterator[tuple[str, Image.Image]]:
    """Yield (label, image): squares of mode "L", ink bright on black."""
    rng = np.random.default_rng(0)
    text = (Path(__file__).parent / "glyphs.txt").read_text()
    lines = [line.split(maxsplit=1) for line in text.splitlines() if not line.startswith("#")]
    for label in dict.fromkeys(label for label, _ in lines):
        forms = [form for name, form in lines if name == label]
        for number in range(COUNT):
            yield label, _draw(forms[number % len(forms)], rng)


def _draw(form: str, rng: np.random.Generator) -> Image.Image:
    """Draw a random variation of a form."""
    image = Image.new("L", (SIDE, SIDE))
    pen = ImageDraw.Draw(image)
    for stroke in form.split("/"):
        words = stroke.split()
        points = np.array([word.rstrip("!").split(",") for word in words], dtype=float)
        points += rng.normal(0, STROKE_SHIFT, 2) + rng.normal(0, POINT_SHIFT, points.shape)
        points = SIDE * (0.125 + 0.0075 * points)
        turns = [number for number, word in enumerate(words) if word.endswith("!")]
        for start, end in zip([0, *turns], [*turns, len(words) - 1], strict=True):
            piece = points[start : end + 1]
            along = np.cumsum([0, *np.linalg.norm(np.diff(piece, axis=0), axis=1)])
            curve = make_interp_spline(along, piece, k=min(3, len(piece) - 1))
            line = curve(np.linspace(0, along[-1], 40))
            pen.line(line.flatten().tolist(), 255, PEN, joint="curve")
            for x, y in (piece[0], piece[-1]):
                pen.circle((x, y), PEN / 2, 255)
    return image
