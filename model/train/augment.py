"""From a few scans, many hands: draw a digit again with another pen, slant and paper.

A scan becomes two smooth fields, its shape and the distance to its centre line. Both can
be bent like rubber, and a pen of any width can then draw along the line: that is what
differs between two writers of the same digit, and what resampling a scan cannot give.
"""

import numpy as np
import torch
from PIL import Image
from scipy.ndimage import distance_transform_edt, gaussian_filter, zoom
from skimage.morphology import skeletonize
from torch import Tensor
from torch.nn.functional import avg_pool2d, grid_sample, interpolate

from model.normalise import normalise

FIELD = 64
"""Height and width, in pixels, of the fields."""
FRAME = 55
"""The side, in pixels, of a picture laid into a field: the rest is room to bend."""
SHEET = 44
"""Height and width, in pixels, of a drawn picture."""
FAR = 12.0
"""Distances to the centre line, in pixels of a field, are cut off here."""


def fields(square: Image.Image) -> Tensor:
    """Turn a square picture, ink bright on black, into (2, 64, 64) float32: shape, distance."""
    pixels = np.asarray(square, dtype=np.float32) / 255
    pixels = zoom(pixels, FRAME / len(pixels), order=3)  # cubic
    shape = np.zeros((FIELD, FIELD), np.float32)
    top, left = (FIELD - pixels.shape[0]) // 2, (FIELD - pixels.shape[1]) // 2
    shape[top : top + pixels.shape[0], left : left + pixels.shape[1]] = pixels.clip(0, 1)
    # A scan this coarse has filled the small loops of 6, 8 and 9: against the mean nearby, not
    # against a fixed level, their dim centres count as ground again.
    detail = shape - gaussian_filter(shape, 3)
    line = skeletonize(shape + 3 * detail > 0.5)  # type: ignore[no-untyped-call]
    shape = (shape + detail).clip(0, 1)
    distance = distance_transform_edt(~line) if line.any() else np.full_like(shape, FAR)
    return torch.from_numpy(np.stack([shape, distance.clip(0, FAR).astype(np.float32)]))


def pictures(some: Tensor, seed: int) -> Tensor:
    """Draw each of (N, 2, 64, 64) fields once and bring it to what the network reads.

    Returns (N, 28, 28) uint8. It goes through the very `normalise` that serving uses, now
    and then from a picture so small that only a blur of the digit is left.
    """
    rng = torch.Generator().manual_seed(seed)
    sheets = draw(some, rng)
    sides = torch.randint(11, 3 * SHEET, (len(sheets),), generator=rng).tolist()
    small = []
    for sheet, side in zip(sheets, sides, strict=True):
        picture = Image.fromarray(sheet.numpy())
        if side < SHEET // 2:
            picture = picture.resize((side, side), Image.Resampling.BOX)
        small.append(normalise(picture))
    return torch.stack(small)


def draw(some: Tensor, rng: torch.Generator) -> Tensor:
    """Draw each of (N, 2, 64, 64) fields once, by another hand: (N, 44, 44) uint8, ink bright."""
    count = len(some)

    def uniform(low: float, high: float) -> Tensor:
        return low + (high - low) * torch.rand(count, 1, 1, 1, generator=rng)

    bent = grid_sample(
        some, _bend(count, rng), padding_mode="border", mode="bilinear", align_corners=False
    )
    shape, distance = bent[:, :1], bent[:, 1:]
    pressure = 1 + 0.25 * _smooth_noise(count, 1, 4, rng)
    pen = uniform(0.7, 4.2) * pressure
    line = torch.sigmoid((pen - distance) / uniform(0.35, 1.0))
    scan = torch.sigmoid((shape - uniform(0.25, 0.65)) / uniform(0.04, 0.15))
    ink = torch.where(uniform(0, 1) < 0.6, line, scan)
    blurred = avg_pool2d(ink, 3, 1, 1)
    ink = torch.lerp(ink, blurred, uniform(0, 1))
    ink = ink + 0.06 * uniform(0, 1) * torch.randn(ink.shape, generator=rng)
    return ink.clamp(0, 1).mul(255).to(torch.uint8)[:, 0]


def _bend(count: int, rng: torch.Generator) -> Tensor:
    """Return (N, 44, 44, 2) sampling grids: turned, slanted, stretched and bent like rubber."""

    def normal(scale: float, limit: float) -> Tensor:
        return (scale * torch.randn(count, generator=rng)).clamp(-limit, limit)

    angle, slant = normal(0.14, 0.3), normal(0.28, 0.7)
    wide, tall = torch.exp(normal(0.18, 0.4)), torch.exp(normal(0.1, 0.25))
    cos, sin = torch.cos(angle), torch.sin(angle)
    turn = torch.stack([torch.stack([cos, -sin], -1), torch.stack([sin, cos], -1)], -2)
    zeros = torch.zeros_like(slant)
    lean = torch.stack([torch.stack([wide, slant], -1), torch.stack([zeros, tall], -1)], -2)
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
