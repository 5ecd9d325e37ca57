"""Vertex AI's JSON in and out.

`{"instances": [...], "parameters": {...}}` -> `{"predictions": [...]}`, one prediction per
instance in the same order; errors as Google's APIs write them. Source: "Custom container
requirements for inference", Vertex AI documentation.
"""

from __future__ import annotations

import json
from http import HTTPStatus
from typing import TYPE_CHECKING, Any, NamedTuple, NoReturn

# Relative, and no `task` at run time: a stock archive carries this file under another name.
from .errors import Internal, InvalidArgument, RequestError

if TYPE_CHECKING:
    from task import JSON

EXAMPLE = '{"instances": [...], "parameters": {...}}'
MAX_INSTANCES = 4096
"""Instances in one request: its neighbours in the batch wait until all of them are answered."""
MAX_CONTAINERS, MAX_VALUES = 300_000, 2_000_000
"""Arrays and objects, and values, in one body: each takes many times the memory of its text."""
MAX_RESPONSE_BYTES = 10 << 20
"""Bytes of one answer: what Vertex passes on from a dedicated endpoint."""
ERROR_HEADER = "X-Handler-Error"
"""The header that an error of ours is repeated in: TorchServe has errors 500 of its own, which
say that a worker died. The front door tells them apart by it."""
MAX_MESSAGE_CHARS = 40_000
"""Characters of an error's message."""
ON_ERROR = "on_error"
"""The one parameter that the envelope keeps for itself; "return" is its one value."""


class Request(NamedTuple):
    """A request that could be read."""

    instances: list[JSON]
    """One or more, as the client sent them."""
    parameters: dict[str, JSON]
    """What is for the task."""
    returns_errors: bool
    """Whether a bad instance gets an error in its prediction's place, or fails the request."""


class Response(NamedTuple):
    """What goes back to one client."""

    code: HTTPStatus
    body: str
    """JSON text."""


def parse_body(body: bytes | str) -> Request:
    """Parse a request's body; raise InvalidArgument with what was expected and what came."""
    marks = (b"[", b"{", b",") if isinstance(body, bytes) else ("[", "{", ",")
    arrays, objects, commas = (body.count(mark) for mark in marks)  # type: ignore[arg-type]
    if arrays + objects > MAX_CONTAINERS or commas > MAX_VALUES:
        raise InvalidArgument(
            f"the body has more than {MAX_CONTAINERS} arrays and objects or {MAX_VALUES} values: "
            "send fewer instances in a request, or pictures as base64"
        )
    try:
        document = json.loads(body, parse_constant=_refuse)
    except RecursionError:
        raise InvalidArgument("the body is nested too deeply to be a request") from None
    except ValueError as error:  # JSONDecodeError and UnicodeDecodeError are such
        raise InvalidArgument(f"the body is not JSON: {error}") from None
    return parse_document(document)


def parse_document(document: JSON) -> Request:
    """Take a request out of parsed JSON; raise InvalidArgument as `read` does."""
    if not isinstance(document, dict):
        raise InvalidArgument(f"expected an object, {EXAMPLE}; got {_kind(document)}")
    if "instances" not in document:
        raise InvalidArgument(f"instances: missing; expected {EXAMPLE}")
    instances, parameters = document["instances"], document.get("parameters")
    if not isinstance(instances, list):
        raise InvalidArgument(f"instances: expected an array; got {_kind(instances)}")
    if not instances:
        raise InvalidArgument("instances: expected one or more; got an empty array")
    if len(instances) > MAX_INSTANCES:
        raise InvalidArgument(f"instances: {len(instances)} of them; the limit is {MAX_INSTANCES}")
    if parameters is None:
        parameters = {}
    if not isinstance(parameters, dict):
        raise InvalidArgument(f"parameters: expected an object; got {_kind(parameters)}")
    on_error = parameters.get(ON_ERROR)
    if on_error not in (None, "return"):
        raise InvalidArgument('parameters.on_error: expected "return", or leave it out')
    for_task = {name: value for name, value in parameters.items() if name != ON_ERROR}
    return Request(instances, for_task, returns_errors=on_error is not None)


def predictions(values: list[JSON]) -> Response:
    """Write the answer to a request; raise RequestError where it is larger than may be sent.

    Raises ValueError or TypeError for what JSON cannot hold.
    """
    body = _dump({"predictions": values})
    if len(body) > MAX_RESPONSE_BYTES:  # json.dumps writes ASCII alone: characters are bytes
        said = f"the answer has {len(body)} bytes, the limit is {MAX_RESPONSE_BYTES}"
        if len(values) > 1:
            raise InvalidArgument(f"{said}: send fewer instances in a request")
        raise Internal(said)
    return Response(HTTPStatus.OK, body)


def failure(error: RequestError) -> Response:
    """Write an error in Google's shape."""
    return Response(error.code, _dump(error_object(error)))


def error_object(error: RequestError) -> dict[str, Any]:
    """Return Google's error object, as it stands alone or in a prediction's place."""
    # A task's text may repeat what the client sent, and TorchServe ends a worker over an
    # answer that is too large, with all who are in the batch.
    message = truncate(str(error), MAX_MESSAGE_CHARS)
    return {"error": {"code": int(error.code), "status": error.status, "message": message}}


def truncate(text: str, most: int) -> str:
    """Return a text cut to `most` characters."""
    return text if len(text) <= most else f"{text[:most]}..."


def _dump(document: JSON) -> str:
    return json.dumps(document, separators=(",", ":"), allow_nan=False)


def _refuse(constant: str) -> NoReturn:
    raise ValueError(f"{constant} is no JSON number")


def _kind(value: JSON) -> str:
    names = {dict: "an object", list: "an array", str: "a string", bool: "a boolean"}
    return "null" if value is None else names.get(type(value), "a number")
