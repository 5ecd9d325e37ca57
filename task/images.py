"""Decode clients' images to greyscale or colour, within limits of size and time.

    image = read_image(instance, "RGB", draft_side=448)

Invalid input raises BadInstance, with what is wrong and what was expected.
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
"""Pillow's modes: 8 bits of grey, or 3 x 8 bits of colour."""
FORMATS = ("PNG", "JPEG", "WEBP")
"""The decoders that clients can use. Pillow has many more, and each is an attack surface."""
MAX_PIXELS = 50_000_000
"""Larger images are rejected before they are decoded. The largest cameras have about this many pixels."""
MAX_DECODED_PIXELS = 12_000_000
"""The limit of a decoded image, for memory. `draft_side` reduces a JPEG while it is decoded."""
MAX_SCANS = 32
"""A progressive JPEG has about ten scans; decoding each takes a pass over all pixels."""
IMAGE_SHAPES = (
    'an image as {"b64": "..."}, {"data": {"b64": "..."}}, {"data": "..."}, '
    '{"image": {"b64": "..."}} or a bare base64 string'
)
"""The shapes that `read_image` accepts, for error messages."""
MARKER = re.compile(rb"\xff([^\x00\x01\xd0-\xd8\xff])", re.DOTALL)
"""A JPEG marker that begins a segment or ends the image. Other markers are part of the coded data."""
START_OF_SCAN, END_OF_IMAGE = b"\xda", b"\xd9"
TRANSPOSE_BY_ORIENTATION = {
    2: Image.Transpose.FLIP_LEFT_RIGHT,
    3: Image.Transpose.ROTATE_180,
    4: Image.Transpose.FLIP_TOP_BOTTOM,
    5: Image.Transpose.TRANSPOSE,
    6: Image.Transpose.ROTATE_270,
    7: Image.Transpose.TRANSVERSE,
    8: Image.Transpose.ROTATE_90,
}
"""The operation that turns an image upright, by EXIF orientation (EXIF 2.3, tag 0x0112)."""

log = logging.getLogger(__name__)


def read_image(
    instance: JSON | bytes,
    mode: Mode = "L",
    *,
    draft_side: int | None = None,
    max_pixels: int = MAX_DECODED_PIXELS,
    expected: str = IMAGE_SHAPES,
) -> Image.Image:
    """Decode an instance in any of IMAGE_SHAPES, or a raw body; the options are those of `decode_image`.

    A model that also accepts other instances passes its own text for error messages as `expected`. Raises
    BadInstance.
    """
    match instance:
        case bytes(content):  # a raw body
            pass
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

    Raises BadInstance, also for empty text.
    """
    if text.startswith("data:"):
        header, _, text = text.partition(",")
        if not header.endswith(";base64"):
            raise BadInstance("expected ;base64 in the data: URL")
    compact = "".join(text.split()).translate(_URL_SAFE).rstrip("=")
    try:
        content = base64.b64decode(compact + "=" * (-len(compact) % 4), validate=True)
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
    """Decode a PNG, JPEG or WebP file: upright, without transparency, in the given mode.

    With `draft_side` a large JPEG is decoded at a half, a quarter or an eighth of its size, with sides of at
    least `draft_side` pixels, which saves most of the time. Raises BadInstance, also if the decoded image
    would have more than `max_pixels`.
    """
    try:
        with warnings.catch_warnings():
            # Pillow warns of large images and invalid metadata; our own limits are checked below.
            warnings.simplefilter("ignore")
            return _decode(content, mode, draft_side, max_pixels)
    except UnidentifiedImageError:
        start = f"the file starts with {content[:8]!r}"
        raise BadInstance(f"not a PNG, JPEG or WebP image; {start}") from None
    except Image.DecompressionBombError as error:
        raise BadInstance(f"the image is too large: {error}") from None
    except (BadInstance, MemoryError):
        raise
    except Exception as error:
        # For hostile bytes Pillow raises nearly any exception, AssertionError and IndexError included.
        # Only Pillow runs in this block, so the bytes are the cause.
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
    # ImageOps.exif_transpose would also rewrite the metadata, and fails if they are invalid.
    operation = TRANSPOSE_BY_ORIENTATION.get(image.getexif().get(ExifTags.Base.Orientation, 1))
    converted = _convert(image, mode)
    return converted if operation is None else converted.transpose(operation)


def describe(value: JSON) -> str:
    """Describe a JSON value for an error message: its type, or a number's first 20 characters."""
    names = {dict: "an object", list: "an array", str: "a string", bool: "a boolean"}
    if value is None:
        return "null"
    return names.get(type(value), f"the number {str(value)[:20]}")


_URL_SAFE = str.maketrans("-_", "+/")


def _list_keys(keys: dict[str, JSON]) -> str:
    names = [key if len(key) <= 20 else f"{key[:20]}..." for key in list(keys)[:5]]
    return str(names) if len(keys) <= 5 else f"{names} and {len(keys) - 5} more"


def _check_size(image: Image.Image, max_pixels: int) -> None:
    if image.width * image.height > max_pixels:
        size = f"{image.width}x{image.height}"
        raise BadInstance(f"the image has {size} pixels; the limit is {max_pixels:,} in all")


def _count_scans(jpeg: bytes) -> int:
    """Return the number of scans of a JPEG's first image; phones append further images.

    Segments are skipped by their length, as in the decoder, because a comment or a thumbnail may contain
    bytes that look like a marker (ITU T.81, B.1.1).
    """
    scans, marker = 0, MARKER.search(jpeg, 2)
    while marker and marker[1] != END_OF_IMAGE:
        scans += marker[1] == START_OF_SCAN
        length = int.from_bytes(jpeg[marker.end() : marker.end() + 2], "big")
        marker = MARKER.search(jpeg, marker.end() + max(length, 2))
    return scans


def _claimed_format(content: bytes) -> str:
    if content.startswith(b"\x89PNG"):
        return "PNG"
    return "JPEG" if content.startswith(b"\xff\xd8") else "WebP"


def _convert(image: Image.Image, mode: Mode) -> Image.Image:
    if image.mode.startswith("I") or image.mode == "F":
        return _to_eight_bits(image).convert(mode)
    if image.has_transparency_data:
        return _remove_transparency(image.convert("RGBA"), mode)
    return image.convert(mode)


def _to_eight_bits(image: Image.Image) -> Image.Image:
    """Scale pixels of 16 or more bits to mode "L"; `convert` would clip them at 255."""
    wide = image.convert("I")
    extrema = wide.getextrema()
    high = max(int(extrema[1]), 1)  # type: ignore[arg-type]  # "I" has one band
    return wide.point(lambda level: level * (255 / high)).convert("L")


def _remove_transparency(image: Image.Image, mode: Mode) -> Image.Image:
    """Compose a transparent image on white, or on black if it is invisible on white."""
    for colour in ("white", "black"):
        background = Image.new("RGBA", image.size, colour)
        composed = Image.alpha_composite(background, image).convert(mode)
        if composed.getcolors(maxcolors=1) is None:
            break
    return composed
