"""From a base64 photograph to the 224x224 that the network reads."""

import base64
import binascii
import io

import torch
from PIL import Image, UnidentifiedImageError
from torch import Tensor

from task import JSON, BadInstance

from .network import SIDE

FORMATS = ("JPEG", "PNG", "WEBP")
CROPPED = 0.875
"""How much of the shorter side is kept, in the middle: 224 of 256 in the usual words."""


def read(instance: JSON) -> Tensor:
    """Turn {"b64": a picture} into (224, 224, 3) uint8; raise BadInstance."""
    text = instance.get("b64") if isinstance(instance, dict) else None
    if not isinstance(text, str):
        raise BadInstance('expected {"b64": "..."}')
    try:
        picture = Image.open(io.BytesIO(base64.b64decode(text, validate=True)), formats=FORMATS)
        # A JPEG much larger than needed is decoded at a half, a quarter or an eighth of its size.
        picture.draft("RGB", (2 * SIDE, 2 * SIDE))
        return _cropped(picture.convert("RGB"))
    except (binascii.Error, UnidentifiedImageError, OSError, ValueError) as error:
        raise BadInstance(f"not a picture: {error}") from None


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
