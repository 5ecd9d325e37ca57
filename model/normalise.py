"""Bring any greyscale picture of a digit to the 28x28 that the network reads.

The last steps are those by which MNIST was made from NIST's scans (Y. LeCun, C. Cortes,
C. Burges, "The MNIST database of handwritten digits"): ink bright on black, the bounding
box fitted into 20x20 with its proportions kept, the centre of mass at the centre of 28x28.
The first are for photographs. Training and serving both call `normalise`.
"""

from bisect import bisect_left
from itertools import accumulate, compress
from operator import mul

import torch
from PIL import Image, ImageChops, ImageFilter, ImageOps

from model.network import SIDE

BOX_SIDE = 20
"""The longer side, in pixels, of a digit inside the 28x28 picture."""
MAX_SIDE, PHOTO_SIDE, PATCH_SIDE = 128, 48, 40
"""Larger pictures are reduced to MAX_SIDE; from PHOTO_SIDE on, shade and specks are removed, the
specks on a grid of PATCH_SIDE."""
MIN_CONTRAST = 12
"""A picture whose grey levels (of 255) span less than this is blank."""
EDGE = 96
"""Fainter ink may lie outside the bounding box."""
LEVELS = bytes(range(256))


def normalise(picture: Image.Image) -> torch.Tensor:
    """Turn a picture of mode "L", of any size, into (28, 28) uint8, ink being 255; blank gives 0."""
    sheet = Image.new("L", (SIDE, SIDE))
    if digit := crop_to_ink(picture):
        scale = BOX_SIDE / max(digit.size)
        size = max(round(digit.width * scale), 1), max(round(digit.height * scale), 1)
        resample = Image.Resampling.BOX if scale < 0.5 else Image.Resampling.BICUBIC
        digit = digit.resize(size, resample)
        sheet.paste(digit, _centre(digit))
    return torch.frombuffer(bytearray(sheet.tobytes()), dtype=torch.uint8).view(SIDE, SIDE)


def crop_to_ink(picture: Image.Image) -> Image.Image | None:
    """Cut the digit out: mode "L", ink bright on black, no margin; None if the picture is blank."""
    if max(picture.size) > MAX_SIDE:
        picture = picture.copy()
        picture.thumbnail((MAX_SIDE, MAX_SIDE), Image.Resampling.BOX)
    ink = _ink_on_black(picture)
    threshold = _otsu(ink.histogram())
    if threshold is None:
        return None
    if max(ink.size) >= PHOTO_SIDE:
        ink = _remove_specks(ink, threshold)
    ink = _stretch(ink, threshold)
    box = ImageChops.subtract(ink, Image.new("L", ink.size, EDGE)).getbbox()
    return ink.crop(box) if box else None


def _ink_on_black(picture: Image.Image) -> Image.Image:
    """Make ink bright and the ground black, whichever was lighter."""
    histogram = picture.histogram()
    threshold = _otsu(histogram)
    if threshold is None:
        return picture
    # Ink may cover more than half of a tight crop, but hardly ever more than half of its rim.
    levels, width = picture.tobytes(), picture.width
    rim = sorted(levels[:width] + levels[-width:] + levels[::width] + levels[width - 1 :: width])
    if rim[(len(rim) - 1) // 2] > threshold:
        picture, histogram = ImageChops.invert(picture), histogram[::-1]
        threshold = 255 - threshold - 1
    if max(picture.size) >= PHOTO_SIDE:
        # The shade of the paper: the darkest level nearby, smoothed.
        size = max(picture.width // 4, 1), max(picture.height // 4, 1)
        near = max(min(size) // 3, 1) | 1
        shade = picture.resize(size, Image.Resampling.BOX).filter(ImageFilter.MinFilter(near))
        shade = shade.filter(ImageFilter.BoxBlur(near // 2))
        ground = shade.resize(picture.size, Image.Resampling.BILINEAR)
    else:
        below = list(accumulate(histogram[: threshold + 1]))
        median = bisect_left(below, below[-1] / 2)
        ground = Image.new("L", picture.size, median)
    return ImageChops.subtract(picture, ground)


def _otsu(histogram: list[int]) -> int | None:
    """Return the level that best separates ink from ground (Otsu 1979), None if blank."""
    levels, counts = list(compress(LEVELS, histogram)), list(filter(None, histogram))
    if levels[-1] - levels[0] < MIN_CONTRAST:
        return None
    *below, total = accumulate(counts)
    *moments, moment = accumulate(map(mul, levels, counts))
    # In whole numbers: the same answer on every machine.
    between = [
        (m * total - b * moment) ** 2 / (b * (total - b))
        for b, m in zip(below, moments, strict=True)
    ]
    return levels[between.index(max(between))]


def _stretch(ink: Image.Image, threshold: int) -> Image.Image:
    """Map the noise floor to 0 and the typical ink to 255."""
    levels, counts = LEVELS[threshold + 1 :], ink.histogram()[threshold + 1 :]
    if not any(counts):
        return ink
    typical, floor = sum(map(mul, levels, counts)) / sum(counts), 0.35 * threshold
    first, last = int(floor) + 1, min(int(typical), 255)
    ramp = [int((level - floor) * 255 / (typical - floor)) for level in range(first, last + 1)]
    table = bytes(first) + bytes(ramp) + b"\xff" * (255 - last)
    return Image.frombytes("L", ink.size, ink.tobytes().translate(table))


def _remove_specks(ink: Image.Image, threshold: int) -> Image.Image:
    """Black out ink with little other ink around it."""
    grid = ink.copy()
    grid.thumbnail((PATCH_SIDE, PATCH_SIDE), Image.Resampling.BOX)
    mask = grid.point(lambda level: 255 * (level > threshold // 2))
    around = ImageOps.expand(mask, 5).filter(ImageFilter.BoxBlur(5))
    around = ImageOps.crop(around, 5).point(lambda share: 255 * (share >= 13))
    # The soft edge of a stroke lies just outside the mask.
    kept = ImageChops.multiply(mask, around).filter(ImageFilter.MaxFilter(3))
    return ImageChops.multiply(ink, kept.resize(ink.size, Image.Resampling.NEAREST))


def _centre(digit: Image.Image) -> tuple[int, int]:
    """Return where to paste a digit so that its centre of mass is the picture's centre."""
    levels, width, height = digit.tobytes(), *digit.size
    columns = [sum(levels[x::width]) for x in range(width)]
    rows = [sum(levels[y : y + width]) for y in range(0, width * height, width)]
    left, top = ((SIDE - 1) / 2 - sum(map(mul, s, LEVELS)) / sum(s) for s in (columns, rows))
    return min(max(round(left), 0), SIDE - width), min(max(round(top), 0), SIDE - height)
