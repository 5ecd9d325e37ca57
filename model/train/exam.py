"""The harder held-out set: digits of writers not trained on, brought in by other means.

A network that has seen a scanner's own scans gets nearly all of that scanner's next ones
right, so those tell nothing. Here the held-out scans are drawn again in ways that training
does not use: a flat brush instead of a round pen, a perspective instead of a rubber sheet,
then either a coarse white-on-black scan, or a photograph of paper with its shade, grain
and JPEG blocks.
"""

import io
import random
from collections.abc import Callable

from PIL import Image, ImageChops, ImageFilter

Examiner = Callable[[Image.Image, random.Random], Image.Image]


def as_scanned(scan: Image.Image, _: random.Random) -> Image.Image:
    """Give the scan as the data set has it."""
    return scan


def small_scan(scan: Image.Image, rng: random.Random) -> Image.Image:
    """Give 28x28, white on black, the digit in the middle 20x20, drawn by another pen."""
    ink = _redrawn(scan, rng)
    box = ink.getbbox()
    digit = ink.crop(box) if box else ink
    digit.thumbnail((20, 20), Image.Resampling.BOX)
    sheet = Image.new("L", (28, 28))
    sheet.paste(digit, ((28 - digit.width) // 2, (28 - digit.height) // 2))
    return sheet


def photograph(scan: Image.Image, rng: random.Random) -> Image.Image:
    """Give a photograph of dark ink on light paper: shade, grain, blur and JPEG blocks."""
    ink = _redrawn(scan, rng).resize((rng.randint(60, 160),) * 2, Image.Resampling.BOX)
    side = rng.randint(ink.width, 2 * ink.width)
    mask = Image.new("L", (side, side))
    mask.paste(ink, (rng.randint(0, side - ink.width), rng.randint(0, side - ink.height)))
    light, dark = rng.randint(150, 250), rng.randint(10, 90)
    shade = Image.linear_gradient("L").rotate(rng.choice((0, 90, 180, 270))).resize((side, side))
    depth = rng.uniform(0, 0.35)
    paper = shade.point(lambda level: int(light * (1 - depth * level / 255)))
    pen = Image.new("L", (side, side), dark)
    grain = Image.effect_noise((side, side), rng.uniform(2, 14))
    picture = ImageChops.add(Image.composite(pen, paper, mask), grain, 1, -128)
    picture = picture.filter(ImageFilter.GaussianBlur(rng.uniform(0, 1.2)))
    jpeg = io.BytesIO()
    picture.save(jpeg, "JPEG", quality=rng.randint(40, 95))
    return Image.open(jpeg).convert("L")


EXAMINERS: dict[str, Examiner] = {
    "as scanned": as_scanned,
    "another pen, 28x28 white on black": small_scan,
    "photographed, black on white": photograph,
}


def _redrawn(scan: Image.Image, rng: random.Random) -> Image.Image:
    """Draw the digit with a flat brush of another width, seen from a slant: 160x160."""
    room = Image.new("L", (160, 160))
    room.paste(scan.resize((130, 130), Image.Resampling.LANCZOS), (15, 15))
    sharp = room.filter(ImageFilter.UnsharpMask(radius=8, percent=200, threshold=0))
    level = rng.randint(95, 165)
    ink = sharp.point(lambda value: 255 * (value > level))
    brush = rng.choice((1, 1, 3, 5, 7))
    filters = (ImageFilter.MaxFilter, ImageFilter.MinFilter)
    ink = ink.filter(rng.choice(filters)(brush)) if brush > 1 else ink
    lean, reach = rng.uniform(-22, 22), 10
    corners = ((lean, 0), (-lean, 160), (160 - lean, 160), (160 + lean, 0))
    quad = [edge + rng.uniform(-reach, reach) for corner in corners for edge in corner]
    return ink.transform((160, 160), Image.Transform.QUAD, quad, resample=Image.Resampling.BILINEAR)
