"""Fit pictures of all sizes into tensors of one size, so that they can share a pass."""

import numpy as np
import torch
from PIL import Image, ImageOps
from torch import Tensor

SIDE = 320


def fit(image: Image.Image) -> tuple[Tensor, float]:
    """Return an RGB picture as (3, SIDE, SIDE) uint8, resized and padded at its right or bottom.

    The second value is the number of the picture's pixels that one of the result stands for.
    """
    small = ImageOps.contain(image, (SIDE, SIDE))
    pixels = torch.zeros(3, SIDE, SIDE, dtype=torch.uint8)
    pixels[:, : small.height, : small.width] = torch.tensor(np.asarray(small)).permute(2, 0, 1)
    return pixels, max(image.size) / SIDE
