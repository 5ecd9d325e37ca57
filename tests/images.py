"""Images and request bodies for the tests."""

import base64
import io
import json
from pathlib import Path
from typing import Any

from PIL import Image, ImageDraw

ROOT = Path(__file__).resolve().parent.parent
MODEL = ROOT / "build" / "model"
ARCHIVE = ROOT / "build" / "model-store" / "digits.mar"


def held_out(count: int) -> list[tuple[str, str]]:
    """Return (base64, label) of `count` held-out digits, spread over the classes."""
    files = sorted((MODEL / "held-out").glob("*.png"))
    chosen = files[:: max(len(files) // count, 1)][:count]
    return [(base64.b64encode(f.read_bytes()).decode(), f.name.split("-")[0]) for f in chosen]


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
