"""Send a picture to a served model and show the answer as a person would want to see it."""

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

WIDTH = 28
"""Columns of the terminal that a picture takes."""
TIMEOUT_S = 60
HELD_OUT = Path("build/model/held-out")


class PredictError(Exception):
    """Why there is no prediction; for people."""


def predict(url: str, picture: bytes, top_k: int) -> tuple[dict[str, Any], float]:
    """Return the prediction for a picture, and the milliseconds that it took; raise NoAnswer."""
    instance = {"b64": base64.b64encode(picture).decode()}
    body = {"instances": [instance], "parameters": {"top_k": top_k}}
    began = time.perf_counter()
    try:
        response = requests.post(url, json=body, timeout=TIMEOUT_S)
    except requests.RequestException as error:
        raise PredictError(f"{url}: {error}. Is it running? Start it with: make serve") from None
    milliseconds = (time.perf_counter() - began) * 1000
    if not response.ok:
        raise PredictError(f"{url} answers {response.status_code}: {_reason(response.content)}")
    return response.json()["predictions"][0], milliseconds


def blocks(picture: Image.Image) -> str:
    """Draw a picture in half blocks: two of its rows a line, light pixels filled."""
    grey = picture.convert("L")
    height = max(round(grey.height * WIDTH / grey.width / 2), 1) * 2
    grey = grey.resize((WIDTH, height), Image.Resampling.BOX)
    low, high = (int(level) for level in grey.getextrema())  # type: ignore[arg-type]
    lit = [value > (low + high) / 2 for value in grey.tobytes()]
    lines = []
    for row in range(0, height, 2):
        pairs = zip(lit[row * WIDTH :][:WIDTH], lit[(row + 1) * WIDTH :][:WIDTH], strict=True)
        lines.append("".join(" ▄▀█"[2 * upper + lower] for upper, lower in pairs))
    return "\n".join(lines)


def bars(scores: dict[str, float]) -> str:
    """Write a line a label: its score as a bar and in percent."""
    wide = max(map(len, scores))
    return "\n".join(
        f"  {label:>{wide}}  {score:6.1%}  {'█' * round(score * 30)}"
        for label, score in scores.items()
    )


def _reason(body: bytes) -> str:
    try:
        return str(json.loads(body)["error"]["message"])
    except (ValueError, KeyError, TypeError):
        return body[:300].decode(errors="replace")


def _default_picture() -> Path:
    kept = sorted(HELD_OUT.glob("*.png"))
    if not kept:
        sys.exit(f"serving.predict: no pictures in {HELD_OUT}: run make model, or give IMAGE=path")
    return random.choice(kept)


def main() -> None:
    """Run the command line."""
    parser = argparse.ArgumentParser(prog="python -m serving.predict", description=__doc__)
    parser.add_argument(
        "image",
        type=Path,
        nargs="?",
        help="PNG, JPEG or WebP (default: one of the held-out digits)",
    )
    parser.add_argument("--url", default="http://127.0.0.1:8080/predictions/digits")
    parser.add_argument("--top-k", type=int, default=3, help="scores to show (%(default)s)")
    args = parser.parse_args()
    path = args.image or _default_picture()
    try:
        with Image.open(path) as picture:
            drawn = blocks(picture)
        prediction, milliseconds = predict(args.url, path.read_bytes(), args.top_k)
        print(f"{path}\n\n{drawn}\n")
    except (OSError, UnidentifiedImageError) as error:
        sys.exit(f"serving.predict: {path}: {error}")
    except PredictError as error:
        sys.exit(f"serving.predict: {error}")
    if "scores" not in prediction:
        print(json.dumps(prediction, indent=2))
    else:
        print(f"It is {prediction['label']}.\n\n{bars(prediction['scores'])}\n")
    print(f"{milliseconds:.1f} ms")


if __name__ == "__main__":
    main()
