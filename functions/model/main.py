"""Serve Vertex AI's requests with the container's handler and a model whose data is fetched from a bucket."""

import json
import shutil
import threading
from collections.abc import Iterator
from http import HTTPStatus
from pathlib import Path

import functions_framework
import torch
from flask import Request, Response

from functions.http import HTTPError, build_response, read_body
from handler import batch, bodies, envelope
from handler.errors import RequestError
from handler.loading import load_and_check
from handler.streaming import Chunks
from storage.lazy import LazyModel, ModelNotLoadedError
from task.adapter import AdaptedTask

SOURCE = Path(__file__).parent
CODE = SOURCE / "archive"
"""The Python files of the model's archive."""
FILES: list[str] = json.loads((SOURCE / "files.json").read_text())
"""The other files of the archive, which are in the bucket."""
MAX_BODY_BYTES = 10 << 20
"""The container's limit."""


class StatusError(RequestError):
    """An error with an HTTP status that the handler does not have."""

    def __init__(self, reason: str, code: HTTPStatus) -> None:
        super().__init__(reason)
        self.code = code


def _load(folder: Path) -> AdaptedTask:
    shutil.copytree(CODE, folder, dirs_exist_ok=True)
    return load_and_check(folder, torch.device("cpu"))


TASK = LazyModel(_load, FILES)
_LOCK = threading.Lock()
"""The server has several threads, and a model may keep a state during a pass: a worker calls it from one thread."""


@functions_framework.http
def predict(request: Request) -> Response:
    """Return {"predictions": [...]} for {"instances": [...], "parameters": {...}}, or a stream.

    Errors have the endpoint's format. The status is 503, with the reason, if the model cannot be loaded.
    """
    response = _predict(request)
    content = _take_chunks(response.chunks) if response.chunks else response.body
    return build_response(content, response.content_type, response.code, allow="POST")


def _predict(request: Request) -> envelope.Response:
    try:
        body = _read_body(request)
        task, headers = TASK.get(), request.headers
        parsed = bodies.parse_request(
            task, body, headers.get("Content-Type"), headers.get("Accept")
        )
        with _LOCK:
            [response] = batch.predict_batch(task, [parsed])
        return response
    except RequestError as error:
        return envelope.format_error(error)
    except HTTPError as error:
        return envelope.format_error(StatusError(str(error), error.status))
    except ModelNotLoadedError as error:
        reason = f"the model cannot be loaded: {error}"
        return envelope.format_error(StatusError(reason, HTTPStatus.SERVICE_UNAVAILABLE))


def _take_chunks(chunks: Chunks) -> Iterator[str]:
    """Yield the parts of a stream; other requests are answered between them."""
    try:
        while True:
            with _LOCK:
                chunk = next(chunks, None)
            if chunk is None:
                return
            yield chunk
    finally:
        chunks.close()


def _read_body(request: Request) -> bytes:
    """Return the body; raise HTTPError for a method or size that the container rejects."""
    if request.method != "POST":
        reason = 'wrong method; predictions: POST {"instances": [...]}'
        raise HTTPError(reason, HTTPStatus.METHOD_NOT_ALLOWED)
    return read_body(request, MAX_BODY_BYTES)
