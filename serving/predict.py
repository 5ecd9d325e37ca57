"""Send a request of requests.json to a served model; print the instance, the prediction and the latency."""

import argparse
import base64
import io
import json
import mimetypes
import random
import sys
import time
from pathlib import Path
from typing import Any

import requests
from PIL import Image

from project.model_folder import Model, ModelFolderError, add_model_option, find_model
from project.requests import read_bodies, replace_picture
from serving.errors import ServingError

IMAGE_COLUMNS = 28
"""The width of the printed image."""
TIMEOUT_S = 60
MAX_CHARS, MAX_LINES = 300, 40
"""Of a printed instance or prediction."""


class PredictError(ServingError):
    """The server gave no prediction."""


def predict(url: str, body: dict[str, Any], raw: Path | None = None) -> tuple[list[Any], float]:
    """Return the predictions for a request and the latency in ms; raise PredictError.

    With a file `raw` its content is sent in place of the request, which then has one instance.
    """
    start = time.perf_counter()
    if raw is None:
        response = _post(url, json=body)
    else:
        content_type = mimetypes.guess_type(raw)[0] or "application/octet-stream"
        response = _post(url, data=read_file(raw), headers={"Content-Type": content_type})
    latency_ms = (time.perf_counter() - start) * 1000
    try:
        predictions = response.json()["predictions"]
        if len(predictions) == len(body["instances"]):
            return predictions, latency_ms
    except (ValueError, KeyError, TypeError):
        pass
    expected = f"expected {len(body['instances'])} predictions"
    raise PredictError(f"{url}: {expected}, got {response.text[:MAX_CHARS]}")


def print_stream(url: str, body: dict[str, Any]) -> float:
    """Print each part of a streamed prediction as it arrives; return the latency of the first in ms.

    Raises PredictError.
    """
    start, latency_ms, index = time.perf_counter(), 0.0, 0
    parameters = {**(body.get("parameters") or {}), "stream": True}
    try:
        for line in _post(url, json={**body, "parameters": parameters}, stream=True).iter_lines():
            latency_ms = latency_ms or (time.perf_counter() - start) * 1000
            event = json.loads(line)
            if "error" in event:
                raise PredictError(f"{url}: {_read_message(line)}")
            if event["instance"] > index:
                print()
            part, index = event["part"], event["instance"]
            print(part if isinstance(part, str) else f"{json.dumps(part)}\n", end="", flush=True)
    except requests.RequestException as error:
        raise PredictError(f"{url}: the stream was interrupted: {error}") from None
    except (ValueError, KeyError, TypeError) as error:
        raise PredictError(f"{url}: the stream is not one of parts as JSON: {error!r}") from None
    print()
    return latency_ms


def _post(url: str, **options: Any) -> requests.Response:
    """Return the response to a POST; raise PredictError for an error of the server or of the connection."""
    try:
        response = requests.post(url, timeout=TIMEOUT_S, **options)
    except requests.ConnectionError:
        raise PredictError(
            f"cannot connect to {url}; is the server running? Start it with: make serve"
        ) from None
    except requests.RequestException as error:
        raise PredictError(f"{url}: {error}") from None
    if not response.ok:
        message = _read_message(response.content)
        raise PredictError(f"{url} responded with {response.status_code}: {message}")
    return response


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


def choose_request(model: Model) -> dict[str, Any]:
    """Return the body of one of the model's requests, chosen at random; raise PredictError."""
    try:
        return random.choice(read_bodies(model))
    except FileNotFoundError:
        reason = f"{model.requests} does not exist; run: make archive, or set REQUEST=file"
        raise PredictError(reason) from None


def read_body(path: Path) -> dict[str, Any]:
    """Return the request in a JSON file; raise PredictError."""
    try:
        body = json.loads(path.read_bytes())
        if isinstance(body["instances"], list):
            return dict(body)
    except OSError as error:
        raise PredictError(f"{path}: {error.strerror}") from error
    except (ValueError, KeyError, TypeError):
        pass
    raise PredictError(f'{path}: expected {{"instances": [...]}} as JSON')


def read_file(path: Path) -> bytes:
    """Return the content of a file; raise PredictError."""
    try:
        return path.read_bytes()
    except OSError as error:
        raise PredictError(f"{path}: {error.strerror}") from error


def _build_body(model: Model, request: Path | None, picture: Path | None) -> dict[str, Any]:
    if request:
        return read_body(request)
    body = choose_request(model)
    if picture is None:
        return body
    image = base64.b64encode(read_file(picture)).decode()
    instance = body["instances"][0]
    if replace_picture(instance, "") == instance:
        raise PredictError(f"{model.name} takes no picture: set REQUEST=file with a request")
    return {**body, "instances": [replace_picture(instance, image)]}


def _print_instance(instance: Any) -> None:
    """Print an instance; a picture is drawn."""
    content = instance.get("b64") if isinstance(instance, dict) else None
    try:
        with Image.open(io.BytesIO(base64.b64decode(content or ""))) as image:
            print(f"{render_image(image)}\n")
    except (OSError, ValueError):
        text = json.dumps(instance, ensure_ascii=False)
        print(text if len(text) <= MAX_CHARS else f"{text[:MAX_CHARS]}...")


def _print_prediction(prediction: Any) -> None:
    if isinstance(prediction, dict) and {"label", "scores"} <= prediction.keys():
        print(f"label: {prediction['label']}\n\n{render_scores(prediction['scores'])}\n")
        return
    text = json.dumps(prediction, indent=2, ensure_ascii=False)
    print(text if text.count("\n") <= MAX_LINES else json.dumps(prediction)[:MAX_CHARS] + "...")


def main(arguments: list[str] | None = None, model: Model | None = None) -> None:
    """Print the prediction for a request; exit with the error if there is none.

    `model` takes the place of --model.
    """
    parser = argparse.ArgumentParser(prog="python -m serving.predict", description=__doc__)
    add = parser.add_argument
    add_model_option(parser)
    add("--request", type=Path, help="file with a request (default: one of the model's requests)")
    text = "PNG, JPEG or WebP in place of the picture of that request"
    add("--picture", type=Path, help=text)
    how = parser.add_mutually_exclusive_group()
    text = "send the picture as it is, without JSON, base64 and parameters"
    how.add_argument("--raw", action="store_true", help=text)
    text = "print the parts of the prediction as they arrive"
    how.add_argument("--stream", action="store_true", help=text)
    text = "print the explanation of the prediction"
    how.add_argument("--explain", action="store_true", help=text)
    add("--port", type=int, default=8080, help="port of the server (default: %(default)s)")
    add("--url", help="URL of the model (default: http://127.0.0.1:PORT/predictions/NAME)")
    args = parser.parse_args(arguments)
    if args.raw and not args.picture:
        parser.error("--raw needs --picture")
    try:
        model = model or find_model(args.model)
        url = args.url or f"http://127.0.0.1:{args.port}{model.predict_route}"
        body = _build_body(model, args.request, args.picture)
        if args.explain:
            body["parameters"] = {**(body.get("parameters") or {}), "explain": True}
        if args.stream:
            print(f"{print_stream(url, body):.1f} ms to the first part")
            return
        predictions, latency_ms = predict(url, body, args.picture if args.raw else None)
    except (PredictError, ModelFolderError) as error:
        sys.exit(f"serving.predict: {error}")
    for instance, prediction in zip(body["instances"], predictions, strict=True):
        _print_instance(instance)
        _print_prediction(prediction)
    print(f"{latency_ms:.1f} ms")


if __name__ == "__main__":
    main()
