"""From an instance, in any of the shapes that clients send, to a greyscale picture."""

import torch
from PIL import Image

from model.network import SIDE
from task import JSON, BadInstance
from task.images import IMAGE_SHAPES, describe, read_image

DRAFT_SIDE = 256
"""A JPEG is reduced while it is decoded, its sides no shorter than this: a digit needs no more."""
MAX_PIXEL_VALUE = 1_000_000
"""Pixels given as numbers may be of any range up to this, either side of zero."""
SHAPES = f"{IMAGE_SHAPES}, or {SIDE} rows of {SIDE} numbers"


def read(instance: JSON) -> Image.Image:
    """Turn one instance into a picture of mode "L".

    Raises BadInstance if it is none of the shapes named in SHAPES, or cannot be decoded.
    """
    match instance:
        case list(rows) | {"data": list(rows)}:
            return from_rows(rows)
    return read_image(instance, draft_side=DRAFT_SIDE, expected=SHAPES)


def from_rows(rows: list[JSON]) -> Image.Image:
    """Turn 28 rows of 28 numbers, of any range, into a picture; raise BadInstance."""
    if len(rows) == 1 and isinstance(rows[0], list) and len(rows[0]) == SIDE:
        return from_rows(rows[0])  # (1, 28, 28): a channel first, as PyTorch users send it
    if len(rows) != SIDE:
        raise BadInstance(f"expected {SIDE} rows of {SIDE} numbers; got {len(rows)} rows")
    for index, row in enumerate(rows):
        if not isinstance(row, list) or len(row) != SIDE:
            got = f"{len(row)} values" if isinstance(row, list) else describe(row)
            raise BadInstance(f"row {index}: expected {SIDE} numbers; got {got}")
        for value in row:
            if type(value) not in (int, float) or not abs(value) <= MAX_PIXEL_VALUE:
                got = describe(value)
                raise BadInstance(
                    f"row {index}: expected numbers up to {MAX_PIXEL_VALUE:,}; got {got}"
                )
    pixels = torch.tensor(rows, dtype=torch.float64)
    # Between 0 and 1, 0 and 255, or whatever: only the contrast matters.
    low, high = pixels.min(), pixels.max()
    scaled = (pixels - low) / (high - low) * 255 if high > low else pixels * 0
    return Image.frombytes("L", (SIDE, SIDE), bytes(scaled.round().int().flatten().tolist()))
