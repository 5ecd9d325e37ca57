"""Send an image to a served model; print the image, its label, scores and the latency."""

import argparse
import base64
import json
import random
import sys
import time
from pathlib import Path
from typing import Any

import requests
from PIL import Image, UnidentifiedImageError

from serving.errors import ServingError

IMAGE_COLUMNS = 28
"""The width of the printed image."""
TIMEOUT_S = 60
HELD_OUT = Path("build/model/held-out")


class PredictError(ServingError):
    """The server gave no prediction."""


def predict(url: str, image: bytes, top_k: int) -> tuple[dict[str, Any], float]:
    """Return the prediction for an image and the latency in ms; raise PredictError."""
    instance = {"b64": base64.b64encode(image).decode()}
    body = {"instances": [instance], "parameters": {"top_k": top_k}}
    start = time.perf_counter()
    try:
        response = requests.post(url, json=body, timeout=TIMEOUT_S)
    except requests.ConnectionError:
        raise PredictError(
            f"cannot connect to {url}; is the server running? Start it with: make serve"
        ) from None
    except requests.RequestException as error:
        raise PredictError(f"{url}: {error}") from None
    latency_ms = (time.perf_counter() - start) * 1000
    if not response.ok:
        message = _read_message(response.content)
        raise PredictError(f"{url} responded with {response.status_code}: {message}")
    return response.json()["predictions"][0], latency_ms


def render_image(image: Image.Image) -> str:
    """Draw an image with half blocks: two rows of pixels per line, light pixels filled."""
    grey = image.convert("L")
    height = max(round(grey.height * IMAGE_COLUMNS / grey.width / 2), 1) * 2
    grey = grey.resize((IMAGE_COLUMNS, height), Image.Resampling.BOX)
    low, high = (int(level) for level in grey.getextrema())  # type: ignore[arg-type]
    lit = [value > (low + high) / 2 for value in grey.tobytes()]
    lines = []
    for row in range(0, height, 2):
        upper_row = lit[row * IMAGE_COLUMNS :][:IMAGE_COLUMNS]
        lower_row = lit[(row + 1) * IMAGE_COLUMNS :][:IMAGE_COLUMNS]
        pairs = zip(upper_row, lower_row, strict=True)
        lines.append("".join(" ▄▀█"[2 * upper + lower] for upper, lower in pairs))
    return "\n".join(lines)


def render_scores(scores: dict[str, float]) -> str:
    """Return a line per label: the score in percent and as a bar."""
    label_width = max(map(len, scores))
    return "\n".join(
        f"  {label:>{label_width}}  {score:6.1%}  {'█' * round(score * 30)}"
        for label, score in scores.items()
    )


def _read_message(body: bytes) -> str:
    try:
        document = json.loads(body)
        # An error of TorchServe has its message at the top, all others have Google's format.
        return str(document.get("error", document)["message"])
    except (ValueError, KeyError, TypeError, AttributeError):
        return body[:300].decode(errors="replace").strip()


def _choose_image() -> Path:
    images = sorted(HELD_OUT.glob("*.png"))
    if not images:
        raise PredictError(f"no images in {HELD_OUT}; run: make model, or set PICTURE=path")
    return random.choice(images)


def main() -> None:
    """Print the prediction for an image; exit with the error if there is none."""
    parser = argparse.ArgumentParser(prog="python -m serving.predict", description=__doc__)
    add = parser.add_argument
    add("image", type=Path, nargs="?", help="PNG, JPEG or WebP (default: a random held-out digit)")
    text = "URL of the model (default: %(default)s)"
    add("--url", default="http://127.0.0.1:8080/predictions/digits", help=text)
    add("--top-k", type=int, default=3, help="number of scores (default: %(default)s)")
    args = parser.parse_args()
    try:
        path = args.image or _choose_image()
        try:
            with Image.open(path) as image:
                drawn = render_image(image)
        except UnidentifiedImageError:
            raise PredictError(f"{path}: not an image in a known format") from None
        except OSError as error:
            raise PredictError(f"{path}: {error.strerror or error}") from error
        prediction, latency_ms = predict(args.url, path.read_bytes(), args.top_k)
    except PredictError as error:
        sys.exit(f"serving.predict: {error}")
    print(f"{path}\n\n{drawn}\n")
    if "scores" in prediction:
        print(f"label: {prediction['label']}\n\n{render_scores(prediction['scores'])}\n")
    else:
        print(json.dumps(prediction, indent=2))
    print(f"{latency_ms:.1f} ms")


if __name__ == "__main__":
    main()
