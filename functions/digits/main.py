"""Answer Vertex AI's requests with the container's own core and model, fetched from a bucket."""

from http import HTTPStatus
from pathlib import Path

import functions_framework
import torch
from flask import Request, Response

from functions.http import HTTPError, body, respond
from handler import batch, envelope, golden
from handler.errors import RequestError
from model.task import load
from storage.lazy import LazyModel, ModelNotLoadedError
from task import Task

LARGEST = 10 << 20
"""Bytes of a request, as the container takes them."""


class ResponseError(RequestError):
    """What HTTP itself has a status for."""

    def __init__(self, reason: str, code: HTTPStatus) -> None:
        super().__init__(reason)
        self.code = code


def _ready(folder: Path) -> Task:
    task = load(folder, torch.device("cpu"))
    golden.check(task)
    return task


# Without backend.json, which was engine.json in version 0.1, the backend is eager.
TASK = LazyModel(
    _ready, ["weights.safetensors", "model.json", "golden.json"], ["backend.json", "engine.json"]
)


@functions_framework.http
def digits(request: Request) -> Response:
    """Return {"predictions": [...]} for {"instances": [...], "parameters": {...}}.

    Errors are Google's, as the endpoint gives them; without its model it answers 503, and says why.
    """
    try:
        response = _predict(_body(request))
    except HTTPError as error:
        response = envelope.format_error(ResponseError(str(error), error.status))
    except ModelNotLoadedError as error:
        reason = f"the model cannot be loaded: {error}"
        response = envelope.format_error(ResponseError(reason, HTTPStatus.SERVICE_UNAVAILABLE))
    return respond(response.body, "application/json", response.code, allow="POST")


def _predict(body: bytes) -> envelope.Response:
    task = TASK.get()
    try:
        [response] = batch.predict_batch(task, [envelope.parse_body(body)])
    except RequestError as error:
        return envelope.format_error(error)
    return response


def _body(request: Request) -> bytes:
    """Return what is sent, of the same methods, kinds and sizes as the container; raise Refused."""
    if request.method != "POST":
        reason = 'wrong method; predictions: POST {"instances": [...]}'
        raise HTTPError(reason, HTTPStatus.METHOD_NOT_ALLOWED)
    if request.mimetype not in ("", "application/json"):
        reason = "expected Content-Type: application/json"
        raise HTTPError(reason, HTTPStatus.UNSUPPORTED_MEDIA_TYPE)
    return body(request, LARGEST)
