"""Images and request bodies for the tests."""

import base64
import io
import json
from pathlib import Path
from typing import Any

from PIL import Image, ImageDraw

ROOT = Path(__file__).resolve().parent.parent
TOY = ROOT / "tests" / "toy"
"""The model of the tests."""
ARCHIVE = ROOT / "build" / "toy" / "toy.mar"
REQUESTS = ROOT / "build" / "toy" / "requests.json"


def labelled_images(count: int) -> list[tuple[str, str]]:
    """Return (base64, label) of `count` different images, spread over the classes of the toy."""
    levels = [round((number + 0.5) * 255 / count) % 256 for number in range(count)]
    return [(image_base64(Image.new("L", (28, 28), level)), grey_label(level)) for level in levels]


def grey_label(level: int) -> str:
    """Return the toy's label of an image with one grey level."""
    return str(int(level / 25.5))


def request_body(*instances: Any, **parameters: Any) -> bytes:
    """Return the body of a predict request."""
    body: dict[str, Any] = {"instances": list(instances)}
    if parameters:
        body["parameters"] = parameters
    return json.dumps(body).encode()


def encode_image(image: Image.Image, file_format: str = "PNG", **options: Any) -> bytes:
    """Return an image as the content of a file."""
    file = io.BytesIO()
    image.save(file, file_format, **options)
    return file.getvalue()


def image_base64(image: Image.Image, file_format: str = "PNG", **options: Any) -> str:
    """Return an image as a base64 string."""
    return base64.b64encode(encode_image(image, file_format, **options)).decode()


def draw_seven(size: int = 100, paper: int = 255, ink: int = 0) -> Image.Image:
    """Draw a seven with straight lines."""
    image = Image.new("L", (size, size), paper)
    points = [(0.3, 0.2), (0.7, 0.2), (0.45, 0.8)]
    line = [(round(x * size), round(y * size)) for x, y in points]
    ImageDraw.Draw(image).line(line, fill=ink, width=size // 12, joint="curve")
    return image
