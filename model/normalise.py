"""Bring any greyscale picture of a digit to the 28x28 that the network reads.

The last steps are those by which MNIST was made from NIST's scans (Y. LeCun, C. Cortes,
C. Burges, "The MNIST database of handwritten digits"): ink bright on black, the bounding
box fitted into 20x20 with its proportions kept, the centre of mass at the centre of 28x28.
The first steps are for photographs: subtract the paper's shade, stretch the contrast.
Training and serving both call `normalise`.
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
"""Larger pictures are reduced to this side first."""
PHOTO_SIDE = 48
"""From this side on, a picture may be a photograph: shade and specks are removed."""
PATCH_SIDE = 40
"""The side, in pixels, of the grid on which specks are found."""
MIN_CONTRAST = 12
"""A picture whose grey levels (of 255) span less than this is blank."""
LEVELS = bytes(range(256))
BOXED = bytes(255 * (level > 96) for level in LEVELS)
"""The levels that count as ink for the bounding box: fainter edges may lie outside."""


def normalise(picture: Image.Image) -> torch.Tensor:
    """Turn a picture of mode "L", of any size and polarity, into (28, 28) uint8, ink being 255.

    A blank picture gives zeros.
    """
    digit = crop_to_ink(picture)
    sheet = Image.new("L", (SIDE, SIDE))
    if digit is not None:
        scale = BOX / max(digit.size)
        size = max(round(digit.width * scale), 1), max(round(digit.height * scale), 1)
        kernel = Image.Resampling.BOX if scale < 0.5 else Image.Resampling.BICUBIC
        digit = digit.resize(size, kernel)
        sheet.paste(digit, _place(digit))
    return torch.frombuffer(bytearray(sheet.tobytes()), dtype=torch.uint8).view(SIDE, SIDE)


def crop_to_ink(picture: Image.Image) -> Image.Image | None:
    """Cut the digit out: mode "L", ink bright on black, no margin. None if it is blank."""
    if max(picture.size) > WORKING_SIDE:
        picture = picture.copy()
        picture.thumbnail((WORKING_SIDE, WORKING_SIDE), Image.Resampling.BOX)
    ink = _ink_on_black(picture)
    threshold = None if ink is None else _otsu(ink.histogram())
    if ink is None or threshold is None:
        return None
    if max(ink.size) >= PHOTO_SIDE:
        ink = _remove_specks(ink, threshold)
    levels = ink.tobytes().translate(_stretch(ink.histogram(), threshold))
    box = Image.frombytes("L", ink.size, levels.translate(BOXED)).getbbox()
    return None if box is None else Image.frombytes("L", ink.size, levels).crop(box)


def _ink_on_black(picture: Image.Image) -> Image.Image | None:
    """Make ink bright and the ground black, whichever was lighter; None for a blank picture."""
    histogram, levels, width = picture.histogram(), picture.tobytes(), picture.width
    threshold = _otsu(histogram)
    if threshold is None:
        return None
    # Ink may cover more than half of a tight crop, but hardly ever more than half of its rim.
    rim = sorted(levels[:width] + levels[-width:] + levels[::width] + levels[width - 1 :: width])
    if rim[(len(rim) - 1) // 2] > threshold:
        levels, histogram = levels.translate(LEVELS[::-1]), histogram[::-1]
        threshold = 255 - threshold - 1
    if max(picture.size) >= PHOTO_SIDE:
        ink = Image.frombytes("L", picture.size, levels)
        return ImageChops.subtract(ink, _local_ground(ink))
    below = list(accumulate(histogram[: threshold + 1]))
    ground = bisect_left(below, below[-1] / 2)  # the median
    levels = levels.translate(bytes(ground) + LEVELS[: 256 - ground])
    return Image.frombytes("L", picture.size, levels)


def _local_ground(ink: Image.Image) -> Image.Image:
    """Estimate the ground at each pixel: the darkest level nearby, smoothed."""
    size = max(ink.width // 4, 1), max(ink.height // 4, 1)
    window = max(min(size) // 3, 1) | 1
    darkest = ink.resize(size, Image.Resampling.BOX).filter(ImageFilter.MinFilter(window))
    return darkest.filter(ImageFilter.BoxBlur(window // 2)).resize(
        ink.size, Image.Resampling.BILINEAR
    )


def _otsu(histogram: list[int]) -> int | None:
    """Return the level that best separates ink from ground (Otsu 1979), None if blank."""
    levels = list(compress(LEVELS, histogram))
    if levels[-1] - levels[0] < MIN_CONTRAST:
        return None
    counts = list(filter(None, histogram))
    below, moments = list(accumulate(counts)), list(accumulate(map(mul, levels, counts)))
    total, moment = below[-1], moments[-1]
    # Whole numbers give the same answer on every machine.
    between = [
        (m * total - b * moment) ** 2 / (b * (total - b))
        for b, m in zip(below[:-1], moments[:-1], strict=True)
    ]
    return levels[between.index(max(between))]


def _stretch(histogram: list[int], threshold: int) -> bytes:
    """Return a table of levels that maps the noise floor to 0 and the typical ink to 255."""
    levels, counts = LEVELS[threshold + 1 :], histogram[threshold + 1 :]
    if not any(counts):
        return LEVELS
    typical, floor = sum(map(mul, levels, counts)) / sum(counts), 0.35 * threshold
    gain, first, last = 255 / (typical - floor), int(floor) + 1, min(int(typical), 255)
    ramp = bytes([int((level - floor) * gain) for level in range(first, last + 1)])
    return bytes(first) + ramp + b"\xff" * (255 - last)


def _remove_specks(ink: Image.Image, threshold: int) -> Image.Image:
    """Black out every patch of ink that is small compared with the largest one."""
    grid = ink.copy()
    grid.thumbnail((PATCH_SIDE, PATCH_SIDE), Image.Resampling.BOX)
    mask = torch.frombuffer(bytearray(grid.tobytes()), dtype=torch.uint8) > threshold // 2
    mask = mask.view(1, 1, grid.height, grid.width)
    # Each patch takes the highest index found in it: a flood fill by repeated 3x3 maxima.
    label = torch.arange(1, mask.numel() + 1, dtype=torch.float32).view_as(mask) * mask
    before = torch.zeros_like(label)
    while not torch.equal(label, before):
        before = label
        for _ in range(8):
            label = max_pool2d(label, 3, 1, 1) * mask
    names, sizes = torch.unique(label[mask], return_counts=True)
    if len(names) < 2:
        return ink
    kept = torch.isin(label, names[sizes * 8 >= sizes.max()]) & mask
    # The soft edge of a stroke lies just outside the mask.
    near = max_pool2d(kept.float(), 3, 1, 1).mul(255).to(torch.uint8).flatten()
    stencil = Image.frombytes("L", grid.size, bytes(near.tolist()))
    return ImageChops.multiply(ink, stencil.resize(ink.size, Image.Resampling.NEAREST))


def _place(digit: Image.Image) -> tuple[int, int]:
    """Return where the digit's corner lies if its centre of mass is the picture's centre."""
    levels, width, height = digit.tobytes(), *digit.size
    rows = [sum(levels[width * y : width * (y + 1)]) for y in range(height)]
    columns = [sum(levels[x::width]) for x in range(width)]
    mass = sum(rows) or 1
    left, top = (
        round((SIDE - 1) / 2 - sum(map(mul, sums, LEVELS)) / mass) for sums in (columns, rows)
    )
    return min(max(left, 0), SIDE - width), min(max(top, 0), SIDE - height)
