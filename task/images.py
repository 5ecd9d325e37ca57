"""Decode the images that clients send, to greyscale or colour, within limits of size and effort.

    image = read_image(instance, "RGB", draft_side=448)

Every error of the client's is a BadInstance whose text says what was wrong and what was expected.
"""

import base64
import binascii
import io
import logging
import re
import warnings
from typing import Literal

from PIL import ExifTags, Image, UnidentifiedImageError

from task import JSON, BadInstance

Mode = Literal["L", "RGB"]
"""Pillow's names of eight bits of grey, and of three times eight bits of colour."""
FORMATS = ("PNG", "JPEG", "WEBP")
"""The decoders that a client can reach. Pillow has many more, and each can be attacked."""
MAX_PIXELS = 50_000_000
"""Larger images are refused before they are decoded. The largest cameras have about as many."""
MAX_DECODED_PIXELS = 12_000_000
"""The limit on what is held in memory. A JPEG can be reduced while it is decoded: draft_side."""
MAX_SCANS = 32
"""A progressive JPEG has some ten scans, and each costs a pass over all of its pixels."""
IMAGE_SHAPES = (
    'an image as {"b64": "..."}, {"data": {"b64": "..."}}, {"data": "..."}, '
    '{"image": {"b64": "..."}} or a bare base64 string'
)
"""What `read_image` accepts, for error messages."""
MARKER = re.compile(rb"\xff([^\x00\x01\xd0-\xd8\xff])", re.DOTALL)
"""A JPEG marker that begins a segment or ends the image; the others are part of the coded data."""
START_OF_SCAN, END_OF_IMAGE = b"\xda", b"\xd9"
UPRIGHT = {
    2: Image.Transpose.FLIP_LEFT_RIGHT,
    3: Image.Transpose.ROTATE_180,
    4: Image.Transpose.FLIP_TOP_BOTTOM,
    5: Image.Transpose.TRANSPOSE,
    6: Image.Transpose.ROTATE_270,
    7: Image.Transpose.TRANSVERSE,
    8: Image.Transpose.ROTATE_90,
}
"""The transposition that turns an image upright, by its EXIF orientation (EXIF 2.3, tag 0x0112)."""

log = logging.getLogger(__name__)


def read_image(
    instance: JSON,
    mode: Mode = "L",
    *,
    draft_side: int | None = None,
    max_pixels: int = MAX_DECODED_PIXELS,
    expected: str = IMAGE_SHAPES,
) -> Image.Image:
    """Decode an instance in any of IMAGE_SHAPES; the options are those of `decode_image`.

    A model that accepts more than images passes a sentence of its own as `expected`: error
    messages quote it. Raises BadInstance.
    """
    match instance:
        case str(text) | {"b64": str(text)} | {"data": str(text)} | {"image": str(text)}:
            content = decode_base64(text)
        case {"data": {"b64": str(text)}} | {"image": {"b64": str(text)}}:
            content = decode_base64(text)
        case dict(keys):
            raise BadInstance(f"expected {expected}; got an object with keys {_list_keys(keys)}")
        case _:
            raise BadInstance(f"expected {expected}; got {describe(instance)}")
    return decode_image(content, mode, draft_side=draft_side, max_pixels=max_pixels)


def decode_base64(text: str) -> bytes:
    """Decode base64, standard or URL-safe, padded or not, with line breaks or as a data: URL.

    Raises BadInstance, for an empty text too.
    """
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
        raise BadInstance("the base64 text is empty; expected a PNG, JPEG or WebP image")
    return content


def decode_image(
    content: bytes,
    mode: Mode = "L",
    *,
    draft_side: int | None = None,
    max_pixels: int = MAX_DECODED_PIXELS,
) -> Image.Image:
    """Decode a PNG, JPEG or WebP file: upright, transparency laid on white, in the given mode.

    With `draft_side` a large JPEG is decoded at a half, a quarter or an eighth of its size, its
    sides no shorter than this; that saves most of the time. Raises BadInstance, also where the
    image has more than `max_pixels` then.
    """
    try:
        with warnings.catch_warnings():
            # About large images and odd metadata. What exceeds our limits is an error below.
            warnings.simplefilter("ignore")
            return _decode(content, mode, draft_side, max_pixels)
    except UnidentifiedImageError:
        raise BadInstance(
            f"not a PNG, JPEG or WebP image; it starts with {content[:8]!r}"
        ) from None
    except Image.DecompressionBombError as error:
        raise BadInstance(f"the image is too large: {error}") from None
    except (BadInstance, MemoryError):
        raise
    except Exception as error:
        # Pillow raises nearly anything over hostile bytes, AssertionError and IndexError included.
        # Nothing but Pillow runs in here, so the bytes are at fault.
        log.debug("an image could not be decoded", exc_info=True)
        raise BadInstance(f"a damaged {_claimed_format(content)} image: {error}") from None


def _decode(content: bytes, mode: Mode, draft_side: int | None, max_pixels: int) -> Image.Image:
    image = Image.open(io.BytesIO(content), formats=FORMATS)
    _check_size(image, MAX_PIXELS)
    if content.startswith(b"\xff\xd8") and _count_scans(content) > MAX_SCANS:
        raise BadInstance(f"the JPEG has more than {MAX_SCANS} scans")
    image.draft(mode, (draft_side, draft_side) if draft_side else None)
    _check_size(image, max_pixels)
    image.load()
    # Not ImageOps.exif_transpose: it also rewrites the metadata, and fails on odd ones.
    turn = UPRIGHT.get(image.getexif().get(ExifTags.Base.Orientation, 1))
    converted = _convert(image, mode)
    return converted if turn is None else converted.transpose(turn)


def describe(value: JSON) -> str:
    """Name a JSON value's type for an error message; a number is quoted, shortened."""
    names = {dict: "an object", list: "an array", str: "a string", bool: "a boolean"}
    if value is None:
        return "null"
    return names.get(type(value), f"the number {str(value)[:20]}")


_URL_SAFE = str.maketrans("-_", "+/")


def _list_keys(keys: dict[str, JSON]) -> str:
    shown = [key if len(key) <= 20 else f"{key[:20]}..." for key in list(keys)[:5]]
    return str(shown) if len(keys) <= 5 else f"{shown} and {len(keys) - 5} more"


def _check_size(image: Image.Image, max_pixels: int) -> None:
    if image.width * image.height > max_pixels:
        size = f"{image.width}x{image.height}"
        raise BadInstance(f"the image has {size} pixels; the limit is {max_pixels:,} in all")


def _count_scans(jpeg: bytes) -> int:
    """Count the scans of a JPEG's first image; what a phone appends to it does not count.

    Segments are skipped by their length, as the decoder does: a comment or a thumbnail may
    contain bytes that look like a marker (ITU T.81, B.1.1).
    """
    scans, found = 0, MARKER.search(jpeg, 2)
    while found and found[1] != END_OF_IMAGE:
        scans += found[1] == START_OF_SCAN
        length = int.from_bytes(jpeg[found.end() : found.end() + 2], "big")
        found = MARKER.search(jpeg, found.end() + max(length, 2))
    return scans


def _claimed_format(content: bytes) -> str:
    if content.startswith(b"\x89PNG"):
        return "PNG"
    return "JPEG" if content.startswith(b"\xff\xd8") else "WebP"


def _convert(image: Image.Image, mode: Mode) -> Image.Image:
    if image.mode.startswith("I") or image.mode == "F":
        return _to_eight_bits(image).convert(mode)
    if image.has_transparency_data:
        return _lay_on_paper(image.convert("RGBA"), mode)
    return image.convert(mode)


def _to_eight_bits(image: Image.Image) -> Image.Image:
    """Scale 16 or more bits a pixel to mode "L"; `convert` would clip them at 255."""
    wide = image.convert("I")
    extrema = wide.getextrema()
    high = max(int(extrema[1]), 1)  # type: ignore[arg-type]  # "I" has one band
    return wide.point(lambda level: level * (255 / high)).convert("L")


def _lay_on_paper(image: Image.Image, mode: Mode) -> Image.Image:
    """Lay a transparent drawing on white, or on black where white ink would vanish on white."""
    for paper in ("white", "black"):
        sheet = Image.new("RGBA", image.size, paper)
        laid = Image.alpha_composite(sheet, image).convert(mode)
        if laid.getcolors(maxcolors=1) is None:
            break
    return laid
