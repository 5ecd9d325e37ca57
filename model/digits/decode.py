"""Decode an instance, in any of the accepted shapes, to a greyscale image."""

import torch
from network import SIDE
from PIL import Image

from task import JSON, BadInstance
from task.images import IMAGE_SHAPES, describe, read_image

DRAFT_SIDE = 256
"""A JPEG is reduced while it is decoded, to sides of at least this many pixels, enough for a digit."""
MAX_PIXEL_VALUE = 1_000_000
"""Largest absolute value of a pixel that is sent as a number."""
SHAPES = f"{IMAGE_SHAPES}, or {SIDE} rows of {SIDE} numbers"


def decode_instance(instance: JSON) -> Image.Image:
    """Return an instance as an image of mode "L".

    Raises BadInstance if it has none of the shapes in SHAPES or cannot be decoded.
    """
    match instance:
        case list(rows) | {"data": list(rows)}:
            return decode_rows(rows)
    return read_image(instance, draft_side=DRAFT_SIDE, expected=SHAPES)


def decode_rows(rows: list[JSON]) -> Image.Image:
    """Return 28 rows of 28 numbers, of any range, as an image of mode "L"; raise BadInstance."""
    if len(rows) == 1 and isinstance(rows[0], list) and len(rows[0]) == SIDE:
        return decode_rows(rows[0])  # (1, 28, 28): channels first, as in PyTorch
    if len(rows) != SIDE:
        raise BadInstance(f"expected {SIDE} rows of {SIDE} numbers; got {len(rows)} rows")
    for index, row in enumerate(rows):
        if not isinstance(row, list) or len(row) != SIDE:
            got = f"{len(row)} values" if isinstance(row, list) else describe(row)
            raise BadInstance(f"row {index}: expected {SIDE} numbers; got {got}")
        for value in row:
            if type(value) not in (int, float) or not abs(value) <= MAX_PIXEL_VALUE:
                expected = f"expected numbers up to {MAX_PIXEL_VALUE:,}"
                raise BadInstance(f"row {index}: {expected}; got {describe(value)}")
    pixels = torch.tensor(rows, dtype=torch.float64)
    # The range may be 0 to 1, 0 to 255 or any other: only the contrast matters.
    low, high = pixels.min(), pixels.max()
    scaled = (pixels - low) / (high - low) * 255 if high > low else pixels * 0
    return Image.frombytes("L", (SIDE, SIDE), bytes(scaled.round().int().flatten().tolist()))
