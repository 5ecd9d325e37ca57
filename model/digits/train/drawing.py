"""Augment examples: redraw a digit with another pen, slant and background, as other writers would.

An example becomes two smooth fields, its shape and the distance to its centre line. Both are distorted, and a pen
of any width then draws along the line: this is what differs between two writers of the same digit. Random numbers
come from torch's global generator.
"""

import numpy as np
import torch
from normalise import normalise
from PIL import Image
from scipy.ndimage import distance_transform_edt, gaussian_filter, zoom
from skimage.morphology import skeletonize
from torch import Tensor
from torch.nn.functional import affine_grid, avg_pool2d, grid_sample, interpolate

FIELD, FRAME, SHEET = 64, 55, 44
"""Sides in pixels: of a field, of the example in its middle, of a drawn image."""


def to_fields(square: Image.Image) -> Tensor:
    """Return (2, 64, 64) float32, shape and distance, for a square image with ink bright on black."""
    pixels = zoom(np.asarray(square, dtype=np.float32) / 255, FRAME / square.width, order=3)
    before = (FIELD - len(pixels)) // 2
    shape = np.pad(pixels.clip(0, 1), (before, FIELD - len(pixels) - before))
    # Coarse scans fill the small loops of 6, 8 and 9. Their dim centres count as background because
    # they are compared with the local mean and not with a fixed level.
    detail = shape - gaussian_filter(shape, 3)
    line = skeletonize(shape + 3 * detail > 0.5)  # type: ignore[no-untyped-call]
    distance = distance_transform_edt(~line) if line.any() else np.full_like(shape, FIELD)
    both = np.stack([(shape + detail).clip(0, 1), distance.clip(0, 12)])
    return torch.from_numpy(both.astype(np.float32))


def draw_images(fields: Tensor) -> Tensor:
    """Draw each of (N, 2, 64, 64) fields once; return network inputs, (N, 28, 28) uint8."""

    def uniform(low: float, high: float) -> Tensor:
        return low + (high - low) * torch.rand(len(fields), 1, 1, 1)

    grid = _distortion(len(fields))
    distorted = grid_sample(fields, grid, padding_mode="border", align_corners=False)
    shape, distance = distorted[:, :1], distorted[:, 1:]
    pen = uniform(0.6, 5.2) * (1 + 0.25 * _smooth_noise(len(fields), 1, 4))
    line = torch.sigmoid((pen - distance) / uniform(0.35, 1.0))
    scan = torch.sigmoid((shape - uniform(0.25, 0.65)) / uniform(0.04, 0.15))
    ink = torch.where(uniform(0, 1) < 0.6, line, scan)
    ink = torch.lerp(ink, avg_pool2d(ink, 3, 1, 1), uniform(0, 1))
    ink = ink + 0.06 * uniform(0, 1) * torch.randn(ink.shape)
    sheets = ink.clamp(0, 1).mul(255).to(torch.uint8).squeeze(1).numpy()
    # Most images are reduced, some so far that the digit is only a blur.
    sides = (11 + 55 * torch.rand(len(fields))).int().clamp(max=SHEET).tolist()
    reduced = [
        Image.fromarray(sheet).resize((side, side), Image.Resampling.BOX)
        for sheet, side in zip(sheets, sides, strict=True)
    ]
    return torch.stack([normalise(image) for image in reduced])


def _distortion(count: int) -> Tensor:
    """Return (N, 44, 44, 2) sampling grids: rotated, sheared, scaled, elastically distorted."""
    spread = torch.tensor([[0.14], [0.3], [0.2], [0.1]])
    turn, slant, width, height = torch.randn(4, count).clamp(-2.5, 2.5) * spread
    rows = [width.exp(), slant - turn, torch.zeros(count), turn, height.exp(), torch.zeros(count)]
    grid = affine_grid(torch.stack(rows, 1).view(-1, 2, 3), [count, 1, SHEET, SHEET], False)
    for cells, reach in ((4, 0.11), (8, 0.035)):
        noise = _smooth_noise(count, 2, cells).permute(0, 2, 3, 1)
        grid = grid + reach * torch.rand(count, 1, 1, 1) * noise
    return grid


def _smooth_noise(count: int, channels: int, cells: int) -> Tensor:
    """Return (N, channels, 44, 44) normal noise that changes over 1/cells of the image."""
    knots = torch.randn(count, channels, cells + 1, cells + 1)
    return interpolate(knots, size=(SHEET, SHEET), mode="bicubic", align_corners=True)
