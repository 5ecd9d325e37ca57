"""Answer Vertex AI's requests with the container's own core and model, fetched from a bucket."""

import functools
from http import HTTPStatus
from pathlib import Path

import functions_framework
import torch
from flask import Request, Response

from functions.http import HTTPError, body, respond
from handler import batch, envelope, golden
from handler.errors import RequestError
from model.task import load
from storage.lazy import LazyModel, NotLoadedError
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
        sent = _body(request)
        answered = batch.predict_batch(TASK.get(), [functools.partial(envelope.parse_body, sent)])[
            0
        ]
    except HTTPError as error:
        answered = envelope.failure(ResponseError(str(error), error.status))
    except NotLoadedError as error:
        reason = f"there is no model: {error}"
        answered = envelope.failure(ResponseError(reason, HTTPStatus.SERVICE_UNAVAILABLE))
    return respond(answered.body, "application/json", answered.code, allow="POST")


def _body(request: Request) -> bytes:
    """Return what is sent, of the same methods, kinds and sizes as the container; raise Refused."""
    if request.method != "POST":
        reason = 'wrong method; predictions: POST {"instances": [...]}'
        raise HTTPError(reason, HTTPStatus.METHOD_NOT_ALLOWED)
    if request.mimetype not in ("", "application/json"):
        reason = "expected Content-Type: application/json"
        raise HTTPError(reason, HTTPStatus.UNSUPPORTED_MEDIA_TYPE)
    return body(request, LARGEST)
