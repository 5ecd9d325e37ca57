"""Draw a digit again with another pen, slant and paper: many writers from a few examples.

An example becomes two smooth fields, its shape and the distance to its centre line. Both can
be bent, and a pen of any width can then draw along the line: that is what differs between two
writers of the same digit. Random numbers are torch's global ones.
"""

import numpy as np
import torch
from PIL import Image
from scipy.ndimage import distance_transform_edt, gaussian_filter, zoom
from skimage.morphology import skeletonize
from torch import Tensor
from torch.nn.functional import affine_grid, avg_pool2d, grid_sample, interpolate

from model.normalise import normalise

FIELD, FRAME, SHEET = 64, 55, 44
"""Sides in pixels: of a field, of the picture in its middle, of a drawn picture."""


def fields(square: Image.Image) -> Tensor:
    """Turn a square picture, ink bright on black, into (2, 64, 64) float32: shape, distance."""
    pixels = zoom(np.asarray(square, dtype=np.float32) / 255, FRAME / square.width, order=3)
    before = (FIELD - len(pixels)) // 2
    shape = np.pad(pixels.clip(0, 1), (before, FIELD - len(pixels) - before))
    # Coarse scans fill the small loops of 6, 8 and 9: compared with the mean nearby, and not
    # with a fixed level, their dim centres count as ground.
    detail = shape - gaussian_filter(shape, 3)
    line = skeletonize(shape + 3 * detail > 0.5)  # type: ignore[no-untyped-call]
    distance = distance_transform_edt(~line) if line.any() else np.full_like(shape, FIELD)
    both = np.stack([(shape + detail).clip(0, 1), distance.clip(0, 12)])
    return torch.from_numpy(both.astype(np.float32))


def draw(some: Tensor) -> Tensor:
    """Draw each of (N, 2, 64, 64) fields once, as the network reads it: (N, 28, 28) uint8."""

    def uniform(low: float, high: float) -> Tensor:
        return low + (high - low) * torch.rand(len(some), 1, 1, 1)

    bent = grid_sample(some, _bend(len(some)), padding_mode="border", align_corners=False)
    shape, distance = bent[:, :1], bent[:, 1:]
    pen = uniform(0.6, 5.2) * (1 + 0.25 * _smooth_noise(len(some), 1, 4))
    line = torch.sigmoid((pen - distance) / uniform(0.35, 1.0))
    scan = torch.sigmoid((shape - uniform(0.25, 0.65)) / uniform(0.04, 0.15))
    ink = torch.where(uniform(0, 1) < 0.6, line, scan)
    ink = torch.lerp(ink, avg_pool2d(ink, 3, 1, 1), uniform(0, 1))
    ink = ink + 0.06 * uniform(0, 1) * torch.randn(ink.shape)
    sheets = ink.clamp(0, 1).mul(255).to(torch.uint8).squeeze(1).numpy()
    # Many are reduced, some until only a blur of the digit is left.
    sides = (11 + 55 * torch.rand(len(some))).int().clamp(max=SHEET).tolist()
    reduced = [
        Image.fromarray(sheet).resize((side, side), Image.Resampling.BOX)
        for sheet, side in zip(sheets, sides, strict=True)
    ]
    return torch.stack([normalise(picture) for picture in reduced])


def _bend(count: int) -> Tensor:
    """Return (N, 44, 44, 2) sampling grids: turned, slanted, stretched, bent like rubber."""
    spread = torch.tensor([[0.14], [0.3], [0.2], [0.1]])
    turn, slant, wide, tall = torch.randn(4, count).clamp(-2.5, 2.5) * spread
    rows = [wide.exp(), slant - turn, torch.zeros(count), turn, tall.exp(), torch.zeros(count)]
    grid = affine_grid(torch.stack(rows, 1).view(-1, 2, 3), [count, 1, SHEET, SHEET], False)
    for cells, reach in ((4, 0.11), (8, 0.035)):
        bent = _smooth_noise(count, 2, cells).permute(0, 2, 3, 1)
        grid = grid + reach * torch.rand(count, 1, 1, 1) * bent
    return grid


def _smooth_noise(count: int, channels: int, cells: int) -> Tensor:
    """Return (N, channels, 44, 44) normal noise that changes over 1/cells of the picture."""
    knots = torch.randn(count, channels, cells + 1, cells + 1)
    return interpolate(knots, size=(SHEET, SHEET), mode="bicubic", align_corners=True)
