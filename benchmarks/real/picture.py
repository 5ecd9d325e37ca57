"""From a base64 photograph to the 224x224 that the network reads."""

import torch
from PIL import Image
from torch import Tensor

from task import JSON
from task.images import read_image

from .network import SIDE

CROPPED = 0.875
"""How much of the shorter side is kept, in the middle: 224 of 256 in the usual words."""


def read(instance: JSON) -> Tensor:
    """Turn an instance that holds a picture into (224, 224, 3) uint8; raise BadInstance."""
    return _cropped(read_image(instance, "RGB", draft_side=2 * SIDE))


def _cropped(picture: Image.Image) -> Tensor:
    """Cut the middle out and scale it, in one step."""
    width, height = picture.size
    side = min(width, height) * CROPPED
    left, top = (width - side) / 2, (height - side) / 2
    small = picture.resize(
        (SIDE, SIDE),
        Image.Resampling.BILINEAR,
        (left, top, left + side, top + side),
        reducing_gap=2.0,
    )
    return torch.frombuffer(bytearray(small.tobytes()), dtype=torch.uint8).view(SIDE, SIDE, 3)
