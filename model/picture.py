"""From an instance, in any of the shapes that clients send, to a greyscale picture."""

import base64
import binascii
import io
import logging
import re
import warnings

import torch
from PIL import ExifTags, Image, UnidentifiedImageError

from model.network import SIDE
from task import JSON, BadInstance

FORMATS = ("PNG", "JPEG", "WEBP")
"""The decoders that a client may reach; Pillow has many more, each a door."""
MAX_PIXELS = 50_000_000
"""Pictures with more pixels than this are refused before they are decoded: a camera's largest."""
MAX_SCANS = 32
"""A progressive JPEG has some ten scans; each costs a pass over all of its pixels."""
MARKER = re.compile(rb"\xff([^\x00\x01\xd0-\xd8\xff])", re.DOTALL)
"""A marker that begins a segment or ends the picture; the others stand in the coded data."""
START_OF_SCAN, END_OF_IMAGE = b"\xda", b"\xd9"
MAX_DECODED_PIXELS = 12_000_000
"""The same for what is held in memory at once; JPEGs are reduced while they are decoded."""
UPRIGHT = {
    2: Image.Transpose.FLIP_LEFT_RIGHT,
    3: Image.Transpose.ROTATE_180,
    4: Image.Transpose.FLIP_TOP_BOTTOM,
    5: Image.Transpose.TRANSPOSE,
    6: Image.Transpose.ROTATE_270,
    7: Image.Transpose.TRANSVERSE,
    8: Image.Transpose.ROTATE_90,
}
"""How a picture is turned upright, by its EXIF orientation (EXIF 2.3, tag 0x0112)."""
BRIGHTEST = 1_000_000
"""Pixels given as numbers may be of any range up to this, either side of zero."""
SHAPES = (
    'a picture as {"b64": "..."}, {"data": {"b64": "..."}}, {"data": "..."}, '
    '{"image": {"b64": "..."}} or a bare base64 string, or 28 rows of 28 numbers'
)

log = logging.getLogger(__name__)


def read(instance: JSON) -> Image.Image:
    """Turn one instance into a picture of mode "L".

    Raises BadInstance where it is none of the shapes named in SHAPES, or cannot be decoded.
    """
    match instance:
        case str(text) | {"b64": str(text)} | {"data": str(text)}:
            return decode(unbase64(text))
        case {"data": {"b64": str(text)}} | {"image": {"b64": str(text)}} | {"image": str(text)}:
            return decode(unbase64(text))
        case list(rows) | {"data": list(rows)}:
            return from_rows(rows)
        case dict(keys):
            raise BadInstance(f"expected {SHAPES}; got an object with keys {_named(keys)}")
        case _:
            raise BadInstance(f"expected {SHAPES}; got {_kind(instance)}")


def unbase64(text: str) -> bytes:
    """Decode standard or URL-safe base64, padded or not, line breaks allowed; raise BadInstance."""
    if text.startswith("data:"):
        head, _, text = text.partition(",")
        if not head.endswith(";base64"):
            raise BadInstance("a data: URL must say ;base64")
    letters = "".join(text.split()).translate(_URL_SAFE).rstrip("=")
    try:
        content = base64.b64decode(letters + "=" * (-len(letters) % 4), validate=True)
    except (binascii.Error, ValueError) as error:
        raise BadInstance(f"not base64: {str(error).lower()}") from None
    if not content:
        raise BadInstance("the base64 text is empty; expected a PNG, JPEG or WebP picture")
    return content


def decode(content: bytes) -> Image.Image:
    """Decode a PNG, JPEG or WebP file to mode "L", upright, on white; raise BadInstance."""
    try:
        with warnings.catch_warnings():
            # Of large pictures and odd metadata; our own limits are errors, and the rest is noise.
            warnings.simplefilter("ignore")
            return _decode(content)
    except UnidentifiedImageError:
        raise BadInstance(
            f"not a PNG, JPEG or WebP picture; it starts with {content[:8]!r}"
        ) from None
    except Image.DecompressionBombError as error:
        raise BadInstance(f"the picture is too large: {error}") from None
    except (BadInstance, MemoryError):
        raise
    except Exception as error:
        # Over hostile bytes Pillow raises nearly anything, AssertionError and IndexError among
        # it. Nothing but Pillow runs in here, so that it is the bytes that are at fault.
        log.debug("a picture could not be decoded", exc_info=True)
        raise BadInstance(f"a damaged {picture_format(content)} picture: {error}") from None


def _decode(content: bytes) -> Image.Image:
    picture = Image.open(io.BytesIO(content), formats=FORMATS)
    _limit(picture, MAX_PIXELS)
    if content.startswith(b"\xff\xd8") and _scans(content) > MAX_SCANS:
        raise BadInstance(f"the JPEG has more than {MAX_SCANS} scans")
    picture.draft("L", (256, 256))
    _limit(picture, MAX_DECODED_PIXELS)
    picture.load()
    # Not ImageOps.exif_transpose: it also writes the metadata anew, and fails on odd ones.
    turn = UPRIGHT.get(picture.getexif().get(ExifTags.Base.Orientation, 1))
    grey = _grey(picture)
    return grey if turn is None else grey.transpose(turn)


def _scans(jpeg: bytes) -> int:
    """Count the scans of a JPEG's first picture; what a phone appends to it does not count.

    Segments are stepped over by their length, as the decoder does: a comment or a thumbnail may
    hold whatever looks like a marker (ITU T.81, B.1.1).
    """
    scans, found = 0, MARKER.search(jpeg, 2)
    while found and found[1] != END_OF_IMAGE:
        scans += found[1] == START_OF_SCAN
        length = int.from_bytes(jpeg[found.end() : found.end() + 2], "big")
        found = MARKER.search(jpeg, found.end() + max(length, 2))
    return scans


def _limit(picture: Image.Image, pixels: int) -> None:
    if picture.width * picture.height > pixels:
        size = f"{picture.width}x{picture.height}"
        raise BadInstance(f"the picture has {size} pixels; the limit is {pixels:,} in all")


def picture_format(content: bytes) -> str:
    """Name the format that a file claims by its first bytes."""
    if content.startswith(b"\x89PNG"):
        return "PNG"
    return "JPEG" if content.startswith(b"\xff\xd8") else "WebP"


def from_rows(rows: list[JSON]) -> Image.Image:
    """Turn 28 rows of 28 numbers, of any range, into a picture; raise BadInstance."""
    if len(rows) == 1 and isinstance(rows[0], list) and len(rows[0]) == SIDE:
        return from_rows(rows[0])  # (1, 28, 28): a channel first, as PyTorch users send it
    if len(rows) != SIDE:
        raise BadInstance(f"expected {SIDE} rows of {SIDE} numbers; got {len(rows)} rows")
    for index, row in enumerate(rows):
        if not isinstance(row, list) or len(row) != SIDE:
            got = f"{len(row)} values" if isinstance(row, list) else _kind(row)
            raise BadInstance(f"row {index}: expected {SIDE} numbers; got {got}")
        for value in row:
            if type(value) not in (int, float) or not abs(value) <= BRIGHTEST:
                got = _kind(value)
                raise BadInstance(f"row {index}: expected numbers up to {BRIGHTEST:,}; got {got}")
    pixels = torch.tensor(rows, dtype=torch.float64)
    # Between 0 and 1, 0 and 255, or whatever: only the contrast matters.
    low, high = pixels.min(), pixels.max()
    scaled = (pixels - low) / (high - low) * 255 if high > low else pixels * 0
    return Image.frombytes("L", (SIDE, SIDE), bytes(scaled.round().int().flatten().tolist()))


_URL_SAFE = str.maketrans("-_", "+/")


def _grey(picture: Image.Image) -> Image.Image:
    if picture.mode.startswith("I") or picture.mode == "F":
        return _eight_bits(picture)
    if picture.has_transparency_data:
        return _on_paper(picture.convert("RGBA"))
    return picture.convert("L")


def _eight_bits(picture: Image.Image) -> Image.Image:
    """Scale 16 or more bits a pixel to the eight that `convert` would cut them off at."""
    wide = picture.convert("I")
    extrema = wide.getextrema()
    high = max(int(extrema[1]), 1)  # type: ignore[arg-type]  # "I" has one band
    return wide.point(lambda level: level * (255 / high)).convert("L")


def _on_paper(picture: Image.Image) -> Image.Image:
    """Lay a transparent drawing on white, or on black where white ink would vanish on white."""
    for paper in ("white", "black"):
        sheet = Image.new("RGBA", picture.size, paper)
        grey = Image.alpha_composite(sheet, picture).convert("L")
        low, high = grey.getextrema()
        if low != high:
            break
    return grey


def _kind(value: JSON) -> str:
    names = {dict: "an object", list: "an array", str: "a string", bool: "a boolean"}
    if value is None:
        return "null"
    return names.get(type(value), f"the number {str(value)[:20]}")


def _named(keys: dict[str, JSON]) -> str:
    shown = [key if len(key) <= 20 else f"{key[:20]}..." for key in list(keys)[:5]]
    return str(shown) if len(keys) <= 5 else f"{shown} and {len(keys) - 5} more"
