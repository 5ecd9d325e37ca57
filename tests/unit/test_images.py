"""Every kind of image is decoded to the same pixels; damaged and oversized images are rejected."""

import base64
import json
import struct
import zlib
from typing import get_args

import pytest
from PIL import Image, ImageChops, ImageStat

from task import BadInstance
from task.images import Mode, decode_base64, decode_image, read_image
from tests.images import draw_seven, encode_image, image_base64


def difference(image: Image.Image, drawn: Image.Image) -> float:
    """Return the mean difference of two images of the same mode, in levels of 255."""
    return max(ImageStat.Stat(ImageChops.difference(image, drawn)).mean)


def transparent(ink: str) -> Image.Image:
    """Return ink on a transparent background."""
    drawing = Image.new("RGBA", (100, 100), (0, 0, 0, 0))
    drawing.paste(Image.new("RGBA", (100, 100), ink), mask=draw_seven(paper=0, ink=255))
    return drawing


def sixteen_bits(drawn: Image.Image) -> bytes:
    levels = [value * 16 for value in drawn.tobytes()]  # a camera of 12 bits
    wide = Image.frombytes("I;16", (100, 100), struct.pack(f"<{len(levels)}H", *levels))
    return encode_image(wide)


def rotated_by_exif() -> bytes:
    exif = Image.Exif()
    exif[0x0112] = 6  # the camera was held sideways
    return encode_image(draw_seven().rotate(90), "JPEG", exif=exif)


def invalid_exif() -> bytes:
    """Return a rotated JPEG whose EXIF has letters for a resolution."""
    entries = struct.pack("<HHIHH", 0x0112, 3, 1, 6, 0) + struct.pack(
        "<HHI4s", 0x011A, 2, 4, b"abc"
    )
    exif = b"Exif\0\0II*\0" + struct.pack("<IH", 8, 2) + entries + struct.pack("<I", 0)
    plain = encode_image(draw_seven().rotate(90), "JPEG")
    return plain[:2] + b"\xff\xe1" + struct.pack(">H", len(exif) + 2) + exif + plain[2:]


BLACK_ON_WHITE = {
    "grey": encode_image(draw_seven()),
    "colour": encode_image(draw_seven().convert("RGB")),
    "CMYK": encode_image(draw_seven().convert("CMYK"), "JPEG"),
    "one bit": encode_image(draw_seven().convert("1")),
    "black on transparent": encode_image(transparent("black")),
    "a palette with transparency": encode_image(transparent("black").quantize(4)),
    "rotated by EXIF": rotated_by_exif(),
    "invalid EXIF": invalid_exif(),
    "the first image of an animation": encode_image(
        draw_seven(), "WEBP", save_all=True, append_images=[Image.new("L", (100, 100))]
    ),
}


DECODED = {name: (content, draw_seven()) for name, content in BLACK_ON_WHITE.items()} | {
    "16 bits, scaled and not clipped": (sixteen_bits(draw_seven(ink=100)), draw_seven(ink=100)),
    "white on transparent, on black": (
        encode_image(transparent("white")),
        draw_seven(paper=0, ink=255),
    ),
}


@pytest.mark.parametrize("mode", get_args(Mode))
@pytest.mark.parametrize(("content", "drawn"), DECODED.values(), ids=DECODED.keys())
def test_every_kind_of_image_is_decoded_to_the_same_pixels(
    content: bytes, drawn: Image.Image, mode: Mode
) -> None:
    assert difference(decode_image(content, mode), drawn.convert(mode)) < 4


def test_colours_are_kept_and_composed_on_white() -> None:
    image = read_image(image_base64(transparent("red")), "RGB")
    assert {image.getpixel((0, 0)), image.getpixel((50, 20))} == {(255, 255, 255), (255, 0, 0)}
    jpeg = image_base64(Image.new("RGB", (64, 64), (20, 120, 220)), "JPEG", quality=100)
    assert difference(read_image(jpeg, "RGB"), Image.new("RGB", (64, 64), (20, 120, 220))) < 4


def test_draft_side_reduces_a_jpeg_to_at_least_this_size() -> None:
    jpeg = image_base64(Image.new("RGB", (800, 600)), "JPEG")
    assert read_image(jpeg, "RGB").size == (800, 600)
    assert read_image(jpeg, "RGB", draft_side=140).size == (200, 150)
    assert read_image(jpeg, draft_side=300, max_pixels=130_000).size == (400, 300)
    with pytest.raises(BadInstance, match="800x600 pixels; the limit is 130,000 in all"):
        read_image(jpeg, max_pixels=130_000)


def png(width: int, height: int, colour: int, pixels: bytes, **chunks: bytes) -> bytes:
    """Return an invalid PNG of eight bits."""

    def chunk(kind: bytes, data: bytes) -> bytes:
        check = struct.pack(">I", zlib.crc32(kind + data))
        return struct.pack(">I", len(data)) + kind + data + check

    header = chunk(b"IHDR", struct.pack(">IIBBBBB", width, height, 8, colour, 0, 0, 0))
    middle = b"".join(chunk(name.encode(), data) for name, data in chunks.items())
    end = chunk(b"IDAT", zlib.compress(pixels)) + chunk(b"IEND", b"")
    return b"\x89PNG\r\n\x1a\n" + header + middle + end


def with_misleading_comment(jpeg: bytes) -> bytes:
    """Insert a comment that contains the markers of a scan and of the image's end."""
    return jpeg[:2] + b"\xff\xfe\x00\x0a\xff\xda\xff\xd9AAAA" + jpeg[2:]


def enlarged(side: int) -> bytes:
    """Return a JPEG whose header has this width and height."""
    jpeg = encode_image(draw_seven(), "JPEG")
    size = jpeg.index(b"\xff\xc0") + 5
    return jpeg[:size] + struct.pack(">HH", side, side) + jpeg[size + 4 :]


def scans(count: int) -> bytes:
    """Return a JPEG that repeats its last scan `count` times."""
    whole = encode_image(draw_seven(), "JPEG", progressive=True)
    return whole[:-2] + whole[whole.rindex(b"\xff\xda") : -2] * count + whole[-2:]


BAD = {
    "a billion pixels": (png(40_000, 25_000, 0, b"\0" * 99), "1000000000|40000x25000"),
    "a JPEG of 64 million pixels": (enlarged(8000), "8000x8000 pixels; the limit is 50,000,000"),
    "a missing palette": (png(2, 2, 3, b"\0\1\1" * 2), "damaged PNG"),
    "a palette of 300 colours": (
        png(2, 2, 3, b"\0\1\1" * 2, PLTE=b"abc", tRNS=b"\0" * 300),
        "damaged PNG",
    ),
    "a truncated PNG": (BLACK_ON_WHITE["grey"][:-40], "damaged PNG"),
    "a truncated JPEG": (
        BLACK_ON_WHITE["CMYK"][: len(BLACK_ON_WHITE["CMYK"]) // 2],
        "damaged JPEG",
    ),
    "a JPEG of very many scans": (scans(40), "more than 32 scans"),
    "scans after a comment with an end marker": (
        with_misleading_comment(scans(40)),
        "more than 32 scans",
    ),
    "an SVG": (b"<svg xmlns='http://www.w3.org/2000/svg'/>", "not a PNG, JPEG or WebP"),
    "a pickle": (b"\x80\x04\x95\x05\x00\x00\x00\x00\x00\x00\x00.", "not a PNG, JPEG or WebP"),
    "a GIF": (encode_image(draw_seven(), "GIF"), "not a PNG, JPEG or WebP"),
}


@pytest.mark.parametrize(("content", "reason"), BAD.values(), ids=BAD.keys())
def test_damaged_or_oversized_image_is_rejected_with_the_reason(
    content: bytes, reason: str
) -> None:
    with pytest.raises(BadInstance, match=reason):
        read_image({"b64": base64.b64encode(content).decode()})


REJECTED = {
    '{"picture": "..."}': "got an object with keys \\['picture'\\]",
    '{"b64": 5}': "got an object with keys \\['b64'\\]",
    '{"a": 1, "b": 1, "c": 1, "d": 1, "e": 1, "f": 1}': "'e'\\] and 1 more",
    "[]": "bare base64 string; got an array",
    "12345": "got the number 12345",
    "true": "got a boolean",
    "null": "got null",
}


@pytest.mark.parametrize(("instance", "reason"), REJECTED.items())
def test_other_instance_is_rejected_with_what_was_expected(instance: str, reason: str) -> None:
    with pytest.raises(BadInstance, match=reason):
        read_image(json.loads(instance))


BYTES = b"\xfb\xff\xbe?"
STANDARD = base64.b64encode(BYTES).decode()
BASE64 = {
    "standard": STANDARD,
    "URL-safe": base64.urlsafe_b64encode(BYTES).decode(),
    "without padding": STANDARD.rstrip("="),
    "with line breaks": f"{STANDARD[:3]}\r\n{STANDARD[3:]}\n",
    "a data: URL": f"data:image/png;base64,{STANDARD}",
}


@pytest.mark.parametrize("text", BASE64.values(), ids=BASE64.keys())
def test_every_form_of_base64_is_decoded(text: str) -> None:
    assert decode_base64(text) == BYTES


@pytest.mark.parametrize(
    ("text", "reason"),
    [
        ("", "the base64 text is empty"),
        ("é", "not base64"),
        ("ab*cd", "not base64"),
        ("abcde", "not base64"),
        ("data:image/svg+xml,<svg/>", "expected ;base64 in the data: URL"),
    ],
)
def test_invalid_base64_is_rejected(text: str, reason: str) -> None:
    with pytest.raises(BadInstance, match=reason):
        decode_base64(text)
