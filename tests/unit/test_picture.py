"""Every picture that a client may send comes out as the same ink; or is refused."""

import base64
import io
import struct
import zlib

import pytest
import torch
from PIL import Image

from model import normalise as normalising
from model import picture
from task import BadInstance
from tests.pictures import encoded, seven


def normalise(picture: Image.Image) -> torch.Tensor:
    """Return the ink from 0 to 1, as the network takes it."""
    return normalising.normalise(picture) / 255


PLAIN = normalise(seven())


def likeness(shown: Image.Image) -> float:
    """Return the cosine between a picture's ink and the plain seven's."""
    ink = normalise(shown)
    return float(torch.cosine_similarity(ink.flatten(), PLAIN.flatten(), dim=0))


def coloured(mode: str) -> Image.Image:
    return seven().convert(mode)


def transparent(ink: str) -> Image.Image:
    """Return ink on nothing."""
    drawing = Image.new("RGBA", (100, 100), (0, 0, 0, 0))
    drawing.paste(Image.new("RGBA", (100, 100), ink), mask=seven(paper=0, ink=255))
    return drawing


def palette_with_transparency() -> bytes:
    file = io.BytesIO()
    transparent("black").quantize(4).save(file, "PNG")
    return file.getvalue()


def sixteen_bits() -> bytes:
    file = io.BytesIO()
    levels = [value * 257 for value in seven().tobytes()]
    wide = Image.frombytes("I;16", (100, 100), struct.pack(f"<{len(levels)}H", *levels))
    wide.save(file, "PNG")
    return file.getvalue()


def rotated_by_exif() -> bytes:
    file = io.BytesIO()
    exif = Image.Exif()
    exif[0x0112] = 6  # the camera was held sideways
    seven().rotate(90).save(file, "JPEG", exif=exif)
    return file.getvalue()


def animated() -> bytes:
    file = io.BytesIO()
    seven().save(file, "WEBP", save_all=True, append_images=[Image.new("L", (100, 100))])
    return file.getvalue()


GOOD = {
    "grey": base64.b64decode(encoded(seven())),
    "white on black": base64.b64decode(encoded(seven(paper=0, ink=255))),
    "faint": base64.b64decode(encoded(seven(paper=200, ink=170))),
    "large": base64.b64decode(encoded(seven(size=1200))),
    "colour": base64.b64decode(encoded(coloured("RGB"))),
    "CMYK": base64.b64decode(encoded(coloured("CMYK"), "JPEG")),
    "one bit": base64.b64decode(encoded(coloured("1"))),
    "black on nothing": base64.b64decode(encoded(transparent("black"))),
    "white on nothing": base64.b64decode(encoded(transparent("white"))),
    "a palette with transparency": palette_with_transparency(),
    "16 bits": sixteen_bits(),
    "rotated by EXIF": rotated_by_exif(),
    "the first picture of an animation": animated(),
}


@pytest.mark.parametrize("content", GOOD.values(), ids=GOOD.keys())
def test_any_picture_of_a_seven_is_brought_to_the_same_ink(content: bytes) -> None:
    assert likeness(picture.decode(content)) > 0.9


def png(width: int, height: int, colour: int, pixels: bytes, **chunks: bytes) -> bytes:
    """Write a PNG of eight bits as it should not be written."""

    def chunk(kind: bytes, data: bytes) -> bytes:
        check = struct.pack(">I", zlib.crc32(kind + data))
        return struct.pack(">I", len(data)) + kind + data + check

    header = chunk(b"IHDR", struct.pack(">IIBBBBB", width, height, 8, colour, 0, 0, 0))
    middle = b"".join(chunk(name.encode(), data) for name, data in chunks.items())
    end = chunk(b"IDAT", zlib.compress(pixels)) + chunk(b"IEND", b"")
    return b"\x89PNG\r\n\x1a\n" + header + middle + end


def hidden(jpeg: bytes) -> bytes:
    """Put a comment in front that holds a scan's beginning and a picture's end."""
    return jpeg[:2] + b"\xff\xfe\x00\x0a\xff\xda\xff\xd9AAAA" + jpeg[2:]


def scans(count: int) -> bytes:
    """Return a JPEG that draws its last scan again and again."""
    file = io.BytesIO()
    seven().save(file, "JPEG", progressive=True)
    whole = file.getvalue()
    return whole[:-2] + whole[whole.rindex(b"\xff\xda") : -2] * count + whole[-2:]


def odd_exif() -> bytes:
    """Return a JPEG whose resolution is said in letters, and which lies on its side."""
    entries = struct.pack("<HHIHH", 0x0112, 3, 1, 6, 0) + struct.pack(
        "<HHI4s", 0x011A, 2, 4, b"abc"
    )
    exif = b"Exif\0\0II*\0" + struct.pack("<IH", 8, 2) + entries + struct.pack("<I", 0)
    file = io.BytesIO()
    seven().rotate(90).save(file, "JPEG")
    plain = file.getvalue()
    return plain[:2] + b"\xff\xe1" + struct.pack(">H", len(exif) + 2) + exif + plain[2:]


def test_odd_metadata_does_not_spoil_a_picture_nor_its_orientation() -> None:
    assert likeness(picture.decode(odd_exif())) > 0.9


BAD = {
    "a billion pixels": (png(40_000, 25_000, 0, b"\0" * 99), "1000000000|40000x25000"),
    "a palette that is missing": (png(2, 2, 3, b"\0\1\1" * 2), "damaged PNG"),
    "a palette of 300": (png(2, 2, 3, b"\0\1\1" * 2, PLTE=b"abc", tRNS=b"\0" * 300), "damaged PNG"),
    "a PNG cut short": (GOOD["grey"][:-40], "damaged PNG"),
    "a JPEG cut short": (GOOD["CMYK"][: len(GOOD["CMYK"]) // 2], "damaged JPEG"),
    "a JPEG of very many scans": (scans(40), "more than 32 scans"),
    "scans behind a comment that looks like an end": (hidden(scans(40)), "more than 32 scans"),
    "an SVG": (b"<svg xmlns='http://www.w3.org/2000/svg'/>", "not a PNG, JPEG or WebP"),
    "a pickle": (b"\x80\x04\x95\x05\x00\x00\x00\x00\x00\x00\x00.", "not a PNG, JPEG or WebP"),
    "a GIF": (b"GIF89a\x01\x00\x01\x00\x00\x00\x00;", "not a PNG, JPEG or WebP"),
}


@pytest.mark.parametrize(("content", "reason"), BAD.values(), ids=BAD.keys())
def test_what_is_no_whole_picture_is_refused_with_the_reason(content: bytes, reason: str) -> None:
    with pytest.raises(BadInstance, match=reason):
        picture.read({"b64": base64.b64encode(content).decode()})


def test_a_picture_without_ink_is_blank_and_not_an_error() -> None:
    assert not normalise(Image.new("L", (60, 60), 200)).any()
    assert not normalise(picture.from_rows([[0] * 28] * 28)).any()


def test_a_data_url_is_base64_with_a_name() -> None:
    assert likeness(picture.read(f"data:image/png;base64,{encoded(seven())}")) > 0.99


@pytest.mark.parametrize(
    "value",
    [10**400, 1e308, float("inf"), float("nan")],
    ids=["an integer of 400 digits", "1e308", "inf", "nan"],
)
def test_numbers_that_are_no_pixels_are_refused(value: float) -> None:
    rows = [[value, -value, *[0.0] * 26], *[[0.0] * 28] * 27]
    with pytest.raises(BadInstance):
        picture.from_rows(rows)


@pytest.mark.parametrize("scale", [1e-320, 1 / 255, 1, 1000, -1])
def test_rows_of_any_range_are_the_same_picture(scale: float) -> None:
    drawn = seven(28, paper=0, ink=255)
    pixels = drawn.tobytes()
    rows = [[value * scale for value in pixels[28 * y : 28 * y + 28]] for y in range(28)]
    assert torch.allclose(normalise(picture.from_rows(rows)), normalise(drawn), atol=0.01)


@pytest.mark.parametrize("shape", [(1, 1), (1, 500), (500, 1), (2, 2), (47, 49)])
def test_no_shape_of_picture_is_too_odd_to_be_normalised(shape: tuple[int, int]) -> None:
    shown = Image.effect_noise(shape, 80)
    assert normalise(shown).shape == (28, 28)
    assert normalise(shown).isfinite().all()


def test_a_speck_far_from_the_digit_does_not_move_it() -> None:
    spotted = seven()
    spotted.paste(0, (2, 2, 5, 5))
    assert likeness(spotted) > 0.9


def test_shade_over_the_paper_does_not_hide_the_digit() -> None:
    shade = Image.linear_gradient("L").resize((100, 100)).point(lambda level: 255 - level // 2)
    shown = Image.composite(shade, Image.new("L", (100, 100), 30), seven())
    assert likeness(shown) > 0.9
