"""Draw a digit again with another pen, slant and paper: from a few examples, many writers.

An example becomes two smooth fields, its shape and the distance to its centre line. Both can
be bent like rubber, and a pen of any width can then draw along the line: that is what differs
between two writers of the same digit, and what resampling a picture cannot give.
"""

import numpy as np
import torch
from PIL import Image
from scipy.ndimage import distance_transform_edt, gaussian_filter, zoom
from skimage.morphology import skeletonize
from torch import Tensor
from torch.nn.functional import avg_pool2d, grid_sample, interpolate

from model.normalise import normalise

FIELD, FRAME, SHEET = 64, 55, 44
"""Sides in pixels: of a field, of the picture in its middle, of a drawn picture."""
FAR = 12.0
"""Distances to the centre line, in pixels of a field, are cut off here."""


def fields(square: Image.Image) -> Tensor:
    """Turn a square picture, ink bright on black, into (2, 64, 64) float32: shape, distance."""
    pixels = np.asarray(square, dtype=np.float32) / 255
    pixels = zoom(pixels, FRAME / len(pixels), order=3)
    before = (FIELD - len(pixels)) // 2
    shape = np.pad(pixels.clip(0, 1), (before, FIELD - len(pixels) - before))
    # In coarse scans the small loops of 6, 8 and 9 are filled: compared with the mean nearby,
    # not with a fixed level, their dim centres count as ground again.
    detail = shape - gaussian_filter(shape, 3)
    line = skeletonize(shape + 3 * detail > 0.5)  # type: ignore[no-untyped-call]
    shape = (shape + detail).clip(0, 1)
    distance = distance_transform_edt(~line) if line.any() else np.full_like(shape, FAR)
    return torch.from_numpy(np.stack([shape, distance.clip(0, FAR)]).astype(np.float32))


def draw(some: Tensor, seed: int) -> Tensor:
    """Draw each of (N, 2, 64, 64) fields once, as the network reads it: (N, 28, 28) uint8."""
    rng = torch.Generator().manual_seed(seed)
    # Some pictures are so small that only a blur of the digit is left.
    sides = (11 + 55 * torch.rand(len(some), generator=rng) ** 0.7).int().tolist()
    drawn = []
    for sheet, side in zip(_sheets(some, rng), sides, strict=True):
        picture = Image.fromarray(sheet.numpy())
        if side < SHEET:
            picture = picture.resize((side, side), Image.Resampling.BOX)
        drawn.append(normalise(picture))
    return torch.stack(drawn)


def _sheets(some: Tensor, rng: torch.Generator) -> Tensor:
    """Draw fields by other hands, on sheets of (N, 44, 44) uint8, ink bright."""
    count = len(some)

    def uniform(low: float, high: float) -> Tensor:
        return low + (high - low) * torch.rand(count, 1, 1, 1, generator=rng)

    bent = grid_sample(some, _bend(count, rng), padding_mode="border", align_corners=False)
    shape, distance = bent[:, :1], bent[:, 1:]
    pressure = 1 + 0.25 * _smooth_noise(count, 1, 4, rng)
    line = torch.sigmoid((uniform(0.6, 5.2) * pressure - distance) / uniform(0.35, 1.0))
    scan = torch.sigmoid((shape - uniform(0.25, 0.65)) / uniform(0.04, 0.15))
    ink = torch.where(uniform(0, 1) < 0.6, line, scan)
    ink = torch.lerp(ink, avg_pool2d(ink, 3, 1, 1), uniform(0, 1))
    ink = ink + 0.06 * uniform(0, 1) * torch.randn(ink.shape, generator=rng)
    return ink.clamp(0, 1).mul(255).to(torch.uint8)[:, 0]


def _bend(count: int, rng: torch.Generator) -> Tensor:
    """Return (N, 44, 44, 2) sampling grids: turned, slanted, stretched and bent like rubber."""

    def normal(scale: float, limit: float) -> Tensor:
        return (scale * torch.randn(count, generator=rng)).clamp(-limit, limit)

    angle, slant = normal(0.14, 0.3), normal(0.3, 0.8)
    wide, tall = torch.exp(normal(0.2, 0.5)), torch.exp(normal(0.1, 0.25))
    cos, sin, zero = torch.cos(angle), torch.sin(angle), torch.zeros(count)
    turn = torch.stack([cos, -sin, sin, cos], -1).view(-1, 2, 2)
    lean = torch.stack([wide, slant, zero, tall], -1).view(-1, 2, 2)
    axis = (torch.arange(SHEET) + 0.5) * 2 / SHEET - 1
    plane = torch.stack(torch.meshgrid(axis, axis, indexing="xy"), -1).view(1, -1, 2)
    straight = (plane @ (turn @ lean).transpose(1, 2)).view(count, SHEET, SHEET, 2)
    coarse = 0.11 * torch.rand(count, 1, 1, 1, generator=rng) * _smooth_noise(count, 2, 4, rng)
    fine = 0.035 * torch.rand(count, 1, 1, 1, generator=rng) * _smooth_noise(count, 2, 8, rng)
    return straight + (coarse + fine).permute(0, 2, 3, 1)


def _smooth_noise(count: int, channels: int, cells: int, rng: torch.Generator) -> Tensor:
    """Return (N, channels, 44, 44) normal noise that changes over 1/cells of the picture."""
    knots = torch.randn(count, channels, cells + 1, cells + 1, generator=rng)
    return interpolate(knots, size=(SHEET, SHEET), mode="bicubic", align_corners=True)
