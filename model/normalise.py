"""Bring any greyscale picture of a digit to the 28x28 that the network knows.

The steps are those by which MNIST was made from NIST's scans (Y. LeCun, C. Cortes,
C. Burges, "The MNIST database of handwritten digits"): ink bright on black, the bounding
box fitted into 20x20 with its proportions kept, the centre of mass at the centre of 28x28.
Before them stands what a photograph needs: the paper's shade taken away, the contrast
stretched. Training and serving both call `normalise`, so they cannot drift apart.
"""

from bisect import bisect_left
from itertools import accumulate, compress
from operator import mul

import torch
from PIL import Image, ImageChops, ImageFilter
from torch.nn.functional import max_pool2d

from model.network import SIDE

BOX = 20
"""The longer side, in pixels, of a digit inside the 28x28 picture."""
WORKING_SIDE = 128
"""Pictures larger than this are reduced to it first: a digit needs no more."""
PHOTO_SIDE = 48
"""From this side on a picture may be a photograph: uneven light and specks are looked for."""
PATCH_SIDE = 40
"""The grid, in pixels, on which patches of ink are told from specks."""
FLAT = 12
"""A picture whose grey levels span less than this (of 255) holds no ink."""
LEVELS = bytes(range(256))
INVERTED = LEVELS[::-1]
BOXED = bytes(255 * (level > 96) for level in LEVELS)
"""What counts as ink when the bounding box is drawn: fainter edges may lie outside."""


def normalise(picture: Image.Image) -> torch.Tensor:
    """Turn a picture of mode "L", of any size and polarity, into (28, 28) uint8, ink being 255.

    A picture without contrast gives zeros.
    """
    digit = cut_out(picture)
    if digit is None:
        return torch.zeros(SIDE, SIDE, dtype=torch.uint8)
    return _centred(_fitted(digit))


def cut_out(picture: Image.Image) -> Image.Image | None:
    """Find the digit: mode "L", ink bright on black, nothing around it; None for no ink."""
    if max(picture.size) > WORKING_SIDE:
        picture = picture.copy()
        picture.thumbnail((WORKING_SIDE, WORKING_SIDE), Image.Resampling.BOX)
    ink = _ink(picture)
    threshold = None if ink is None else _otsu(ink.histogram())
    if ink is None or threshold is None:
        return None
    if max(ink.size) >= PHOTO_SIDE:
        ink = _without_specks(ink, threshold)
    levels = ink.tobytes().translate(_stretch(ink.histogram(), threshold))
    box = Image.frombytes("L", ink.size, levels.translate(BOXED)).getbbox()
    return None if box is None else Image.frombytes("L", ink.size, levels).crop(box)


def _ink(picture: Image.Image) -> Image.Image | None:
    """Make ink bright and the ground black, whichever was the lighter; None for a flat picture."""
    histogram = picture.histogram()
    level = _otsu(histogram)
    if level is None:
        return None
    levels = picture.tobytes()
    # Ink may cover more than half of a tight crop, but hardly ever more than half of its rim.
    rim = sorted(_rim(levels, picture.width))
    if rim[(len(rim) - 1) // 2] > level:
        levels = levels.translate(INVERTED)
        histogram, level = histogram[::-1], 255 - level - 1
    if max(picture.size) >= PHOTO_SIDE:
        upright = Image.frombytes("L", picture.size, levels)
        return ImageChops.subtract(upright, _local_ground(upright))
    ground = _median(histogram[: level + 1])
    return Image.frombytes(
        "L", picture.size, levels.translate(bytes(ground) + LEVELS[: 256 - ground])
    )


def _rim(levels: bytes, width: int) -> bytes:
    """Return the levels of the outermost pixels, those at the corners twice."""
    return levels[:width] + levels[-width:] + levels[::width] + levels[width - 1 :: width]


def _local_ground(picture: Image.Image) -> Image.Image:
    """Estimate the ground at each pixel: the darkest level nearby, smoothed; ink is bright here."""
    size = picture.size
    small = picture.resize((max(size[0] // 4, 1), max(size[1] // 4, 1)), Image.Resampling.BOX)
    window = max(min(small.size) // 3, 1) | 1
    ground = small.filter(ImageFilter.MinFilter(window)).filter(ImageFilter.BoxBlur(window // 2))
    return ground.resize(size, Image.Resampling.BILINEAR)


def _median(histogram: list[int]) -> int:
    return bisect_left(list(accumulate(histogram)), sum(histogram) / 2)


def _otsu(histogram: list[int]) -> int | None:
    """Return the level that best parts ink from ground (Otsu 1979), None for a flat picture."""
    levels = list(compress(LEVELS, histogram))
    if levels[-1] - levels[0] < FLAT:
        return None
    counts = list(filter(None, histogram))
    below = list(accumulate(counts))
    below_moment = list(accumulate(map(mul, levels, counts)))
    total, moment = below[-1], below_moment[-1]
    # How far apart the two means are, squared, times the pixels on either side; of whole numbers,
    # so that there is one answer on every machine.
    apart = [
        (m * total - b * moment) ** 2 / (b * (total - b))
        for b, m in zip(below[:-1], below_moment[:-1], strict=True)
    ]
    return levels[apart.index(max(apart))]


def _stretch(histogram: list[int], threshold: int) -> bytes:
    """Return a table of levels that maps the noise floor to 0 and the typical ink to 255."""
    strong = sum(histogram[threshold + 1 :])
    if strong == 0:
        return LEVELS
    typical = sum(map(mul, LEVELS[threshold + 1 :], histogram[threshold + 1 :])) / strong
    floor = 0.35 * threshold
    gain = 255 / (typical - floor)
    first, last = int(floor) + 1, min(int(typical), 255)
    ramp = bytes([int((level - floor) * gain) for level in range(first, last + 1)])
    return bytes(first) + ramp + b"\xff" * (255 - last)


def _without_specks(ink: Image.Image, threshold: int) -> Image.Image:
    """Black out every patch of ink that is small beside the largest one."""
    grid = ink.copy()
    grid.thumbnail((PATCH_SIDE, PATCH_SIDE), Image.Resampling.BOX)
    mask = torch.frombuffer(bytearray(grid.tobytes()), dtype=torch.uint8) > threshold // 2
    mask = mask.view(1, 1, grid.height, grid.width)
    # Each patch takes the highest index found in it: a flood fill by repeated 3x3 maxima.
    label = torch.arange(1, mask.numel() + 1, dtype=torch.float32).view_as(mask) * mask
    while True:
        spread = label
        for _ in range(8):
            spread = max_pool2d(spread, 3, 1, 1) * mask
        if torch.equal(spread, label):
            break
        label = spread
    names, sizes = torch.unique(label[mask], return_counts=True)
    if len(names) < 2:
        return ink
    kept = torch.isin(label, names[sizes * 8 >= sizes.max()]) & mask
    # The soft edge of a stroke lies just outside the mask.
    near = max_pool2d(kept.float(), 3, 1, 1).mul(255).to(torch.uint8).flatten()
    stencil = Image.frombytes("L", grid.size, bytes(near.tolist()))
    return ImageChops.multiply(ink, stencil.resize(ink.size, Image.Resampling.NEAREST))


def _fitted(digit: Image.Image) -> Image.Image:
    """Scale a digit, its proportions kept, to a longer side of 20 pixels."""
    scale = BOX / max(digit.size)
    size = max(round(digit.width * scale), 1), max(round(digit.height * scale), 1)
    return digit.resize(size, Image.Resampling.BOX if scale < 0.5 else Image.Resampling.BICUBIC)


def _centred(digit: Image.Image) -> torch.Tensor:
    """Lay a digit of at most 20x20 onto 28x28 so that its centre of mass is the centre."""
    levels, width, height = digit.tobytes(), digit.width, digit.height
    rows = [sum(levels[start : start + width]) for start in range(0, width * height, width)]
    columns = [sum(levels[start::width]) for start in range(width)]
    mass = sum(rows)
    if mass == 0:
        return torch.zeros(SIDE, SIDE, dtype=torch.uint8)
    middle = (SIDE - 1) / 2
    top = round(middle - sum(map(mul, rows, LEVELS)) / mass)
    left = round(middle - sum(map(mul, columns, LEVELS)) / mass)
    place = min(max(left, 0), SIDE - width), min(max(top, 0), SIDE - height)
    picture = Image.new("L", (SIDE, SIDE))
    picture.paste(digit, place)
    return torch.frombuffer(bytearray(picture.tobytes()), dtype=torch.uint8).view(SIDE, SIDE)
