"""Bring any greyscale picture of a digit to the 28x28 that the network knows.

The steps are those by which MNIST was made from NIST's scans (Y. LeCun, C. Cortes,
C. Burges, "The MNIST database of handwritten digits"): ink bright on black, the bounding
box fitted into 20x20 with its proportions kept, the centre of mass at the centre of 28x28.
Before them stands what a photograph needs: the paper's shade taken away, the contrast
stretched. Training and serving both call `normalise`, so they cannot drift apart.
"""

import torch
from PIL import Image, ImageChops, ImageFilter, ImageOps
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
BOXED = [255 * (level > 96) for level in range(256)]
"""What counts as ink when the bounding box is drawn: fainter edges may lie outside."""


def normalise(picture: Image.Image) -> torch.Tensor:
    """Turn a picture of mode "L", of any size and polarity, into (28, 28) float32 in [0, 1].

    A picture without contrast gives zeros.
    """
    digit = cut_out(picture)
    return torch.zeros(SIDE, SIDE) if digit is None else _centred(_fitted(digit))


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
    ink = _stretched(ink, threshold)
    box = ink.point(BOXED).getbbox()
    return None if box is None else ink.crop(box)


def _ink(picture: Image.Image) -> Image.Image | None:
    """Make ink bright and the ground black, whichever was the lighter; None for a flat picture."""
    level = _otsu(picture.histogram())
    if level is None:
        return None
    # Ink may cover more than half of a tight crop, but hardly ever more than half of its rim.
    if _median(_rim(picture).histogram()) > level:
        picture = ImageOps.invert(picture)
        level = 255 - level - 1
    if max(picture.size) >= PHOTO_SIDE:
        return ImageChops.subtract(picture, _local_ground(picture))
    ground = _median(picture.histogram()[: level + 1])
    return picture.point([max(value - ground, 0) for value in range(256)])


def _rim(picture: Image.Image) -> Image.Image:
    """Return the outermost pixels, as one row."""
    width, height = picture.size
    turned = picture.transpose(Image.Transpose.ROTATE_90)
    rim = Image.new("L", (2 * width + 2 * height, 1))
    for left, source, row in (
        (0, picture, 0),
        (width, picture, height - 1),
        (2 * width, turned, 0),
        (2 * width + height, turned, width - 1),
    ):
        rim.paste(source.crop((0, row, source.width, row + 1)), (left, 0))
    return rim


def _local_ground(picture: Image.Image) -> Image.Image:
    """Estimate the ground at each pixel: the darkest level nearby, smoothed; ink is bright here."""
    size = picture.size
    small = picture.resize((max(size[0] // 4, 1), max(size[1] // 4, 1)), Image.Resampling.BOX)
    window = max(min(small.size) // 3, 1) | 1
    ground = small.filter(ImageFilter.MinFilter(window)).filter(ImageFilter.BoxBlur(window // 2))
    return ground.resize(size, Image.Resampling.BILINEAR)


def _median(histogram: list[int]) -> int:
    half, seen = sum(histogram) / 2, 0
    for level, count in enumerate(histogram):
        seen += count
        if seen >= half:
            return level
    raise AssertionError("a histogram of no pixels")


def _otsu(histogram: list[int]) -> int | None:
    """Return the level that best parts ink from ground (Otsu 1979), None for a flat picture."""
    levels = [level for level, count in enumerate(histogram) if count]
    if levels[-1] - levels[0] < FLAT:
        return None
    total = sum(histogram)
    moment = sum(level * count for level, count in enumerate(histogram))
    best, best_level, below, below_moment = -1.0, levels[0], 0, 0
    for level in range(levels[0], levels[-1]):
        below += histogram[level]
        below_moment += level * histogram[level]
        above = total - below
        apart = below_moment / below - (moment - below_moment) / above
        between = below * above * apart * apart
        if between > best:
            best, best_level = between, level
    return best_level


def _stretched(ink: Image.Image, threshold: int) -> Image.Image:
    """Map the noise floor to 0 and the typical ink to 255."""
    histogram = ink.histogram()
    strong = sum(histogram[threshold + 1 :])
    if strong == 0:
        return ink
    typical = sum(level * histogram[level] for level in range(threshold + 1, 256)) / strong
    floor = 0.35 * threshold
    gain = 255 / (typical - floor)
    return ink.point([min(max(int((level - floor) * gain), 0), 255) for level in range(256)])


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
    pixels = torch.frombuffer(bytearray(digit.tobytes()), dtype=torch.uint8).float() / 255
    pixels = pixels.view(digit.height, digit.width)
    mass = pixels.sum()
    if mass == 0:
        return torch.zeros(SIDE, SIDE)
    y = float(pixels.sum(1) @ torch.arange(digit.height, dtype=torch.float32) / mass)
    x = float(pixels.sum(0) @ torch.arange(digit.width, dtype=torch.float32) / mass)
    middle = (SIDE - 1) / 2
    top = min(max(round(middle - y), 0), SIDE - digit.height)
    left = min(max(round(middle - x), 0), SIDE - digit.width)
    picture = torch.zeros(SIDE, SIDE)
    picture[top : top + digit.height, left : left + digit.width] = pixels
    return picture
