"""Normalise any greyscale image of a digit to the 28x28 pixels of the network's input.

The last steps are those that made MNIST from NIST's scans (Y. LeCun, C. Cortes, C. Burges, "The MNIST database of
handwritten digits"): ink bright on black, the bounding box scaled into 20x20 with its aspect ratio, the centre of
mass at the centre of 28x28. The first steps are for photographs. Training and serving both call `normalise`.
"""

from bisect import bisect_left
from itertools import accumulate, compress
from operator import mul

import torch
from network import SIDE
from PIL import Image, ImageChops, ImageFilter, ImageOps

BOX_SIDE = 20
"""The longer side of a digit in the 28x28 image, in pixels."""
MAX_SIDE, PHOTO_SIDE, PATCH_SIDE = 128, 48, 40
"""Larger images are reduced to MAX_SIDE. From PHOTO_SIDE on, shade and specks are removed, the specks on a grid
of PATCH_SIDE."""
MIN_CONTRAST = 12
"""An image whose grey levels (of 255) span less than this is blank."""
EDGE = 96
"""Fainter ink may be outside of the bounding box."""
LEVELS = bytes(range(256))


def normalise(image: Image.Image) -> torch.Tensor:
    """Return (28, 28) uint8, 255 for ink, for an image of mode "L" and any size; zeros if it is blank."""
    sheet = Image.new("L", (SIDE, SIDE))
    if digit := crop_to_ink(image):
        scale = BOX_SIDE / max(digit.size)
        size = max(round(digit.width * scale), 1), max(round(digit.height * scale), 1)
        resample = Image.Resampling.BOX if scale < 0.5 else Image.Resampling.BICUBIC
        digit = digit.resize(size, resample)
        sheet.paste(digit, _centred_position(digit))
    return torch.frombuffer(bytearray(sheet.tobytes()), dtype=torch.uint8).view(SIDE, SIDE)


def crop_to_ink(image: Image.Image) -> Image.Image | None:
    """Return the digit without margin, mode "L", ink bright on black; None if the image is blank."""
    if max(image.size) > MAX_SIDE:
        image = image.copy()
        image.thumbnail((MAX_SIDE, MAX_SIDE), Image.Resampling.BOX)
    ink = _ink_on_black(image)
    threshold = _otsu_threshold(ink.histogram())
    if threshold is None:
        return None
    if max(ink.size) >= PHOTO_SIDE:
        ink = _remove_specks(ink, threshold)
    ink = _stretch_contrast(ink, threshold)
    box = ImageChops.subtract(ink, Image.new("L", ink.size, EDGE)).getbbox()
    return ink.crop(box) if box else None


def _ink_on_black(image: Image.Image) -> Image.Image:
    """Return bright ink on a black background, whichever of them was lighter."""
    histogram = image.histogram()
    threshold = _otsu_threshold(histogram)
    if threshold is None:
        return image
    # Ink may cover more than half of a tight crop, but rarely more than half of its border.
    levels, width = image.tobytes(), image.width
    border = sorted(levels[:width] + levels[-width:] + levels[::width] + levels[width - 1 :: width])
    if border[(len(border) - 1) // 2] > threshold:
        image, histogram = ImageChops.invert(image), histogram[::-1]
        threshold = 255 - threshold - 1
    if max(image.size) >= PHOTO_SIDE:
        # The shade of the paper is the darkest level nearby, smoothed.
        size = max(image.width // 4, 1), max(image.height // 4, 1)
        radius = max(min(size) // 3, 1) | 1
        shade = image.resize(size, Image.Resampling.BOX).filter(ImageFilter.MinFilter(radius))
        shade = shade.filter(ImageFilter.BoxBlur(radius // 2))
        background = shade.resize(image.size, Image.Resampling.BILINEAR)
    else:
        below = list(accumulate(histogram[: threshold + 1]))
        median = bisect_left(below, below[-1] / 2)
        background = Image.new("L", image.size, median)
    return ImageChops.subtract(image, background)


def _otsu_threshold(histogram: list[int]) -> int | None:
    """Return the level that best separates ink from background (Otsu 1979), or None if blank."""
    levels, counts = list(compress(LEVELS, histogram)), list(filter(None, histogram))
    if levels[-1] - levels[0] < MIN_CONTRAST:
        return None
    *below, total = accumulate(counts)
    *moments, moment = accumulate(map(mul, levels, counts))
    # In integers, so that the result is the same on every machine.
    between = [
        (m * total - b * moment) ** 2 / (b * (total - b))
        for b, m in zip(below, moments, strict=True)
    ]
    return levels[between.index(max(between))]


def _stretch_contrast(ink: Image.Image, threshold: int) -> Image.Image:
    """Scale levels from the noise floor to the typical ink to 0 to 255."""
    levels, counts = LEVELS[threshold + 1 :], ink.histogram()[threshold + 1 :]
    if not any(counts):
        return ink
    typical, floor = sum(map(mul, levels, counts)) / sum(counts), 0.35 * threshold
    first, last = int(floor) + 1, min(int(typical), 255)
    ramp = [int((level - floor) * 255 / (typical - floor)) for level in range(first, last + 1)]
    table = bytes(first) + bytes(ramp) + b"\xff" * (255 - last)
    return Image.frombytes("L", ink.size, ink.tobytes().translate(table))


def _remove_specks(ink: Image.Image, threshold: int) -> Image.Image:
    """Remove ink that has little other ink around it."""
    grid = ink.copy()
    grid.thumbnail((PATCH_SIDE, PATCH_SIDE), Image.Resampling.BOX)
    mask = grid.point(lambda level: 255 * (level > threshold // 2))
    around = ImageOps.expand(mask, 5).filter(ImageFilter.BoxBlur(5))
    around = ImageOps.crop(around, 5).point(lambda share: 255 * (share >= 13))
    # The soft edge of a stroke is just outside of the mask.
    kept = ImageChops.multiply(mask, around).filter(ImageFilter.MaxFilter(3))
    return ImageChops.multiply(ink, kept.resize(ink.size, Image.Resampling.NEAREST))


def _centred_position(digit: Image.Image) -> tuple[int, int]:
    """Return where to paste a digit so that its centre of mass is the centre of the image."""
    levels, width, height = digit.tobytes(), *digit.size
    columns = [sum(levels[x::width]) for x in range(width)]
    rows = [sum(levels[y : y + width]) for y in range(0, width * height, width)]
    left, top = ((SIDE - 1) / 2 - sum(map(mul, s, LEVELS)) / sum(s) for s in (columns, rows))
    return min(max(round(left), 0), SIDE - width), min(max(round(top), 0), SIDE - height)
