"""Parse requests and format responses in Vertex AI's JSON.

`{"instances": [...], "parameters": {...}}` -> `{"predictions": [...]}`, one prediction per instance in the same
order; errors in the format of Google's APIs. Source: "Custom container requirements for inference", Vertex AI
documentation.
"""

from __future__ import annotations

import json
from http import HTTPStatus
from typing import TYPE_CHECKING, Any, NamedTuple, NoReturn

# Relative, and no `task` at run time: stock archives carry this module in another package.
from .errors import InternalError, InvalidArgumentError, RequestError

if TYPE_CHECKING:
    from collections.abc import Callable

    from handler.streaming import Chunks
    from task import JSON

EXAMPLE = '{"instances": [...], "parameters": {...}}'
MAX_INSTANCES = 4096
"""Instances in one request: the other requests of the batch wait for all of them."""
MAX_CONTAINERS, MAX_VALUES = 300_000, 2_000_000
"""Arrays and objects, and values, in one body: each needs many times the memory of its text."""
MAX_RESPONSE_BYTES = 10 << 20
"""Bytes of one response: the limit of a dedicated endpoint of Vertex AI."""
MAX_MESSAGE_CHARS = 40_000
"""Characters of an error message."""
ON_ERROR, STREAM, EXPLAIN = "on_error", "stream", "explain"
"""The parameters that the task does not get: "return", and whether the prediction is streamed, or explained."""
JSON_TYPE = "application/json"
JSON_LINES, EVENT_STREAM = "application/x-ndjson", "text/event-stream"
"""The content types of a stream."""


class Request(NamedTuple):
    """A parsed request."""

    instances: list[JSON]
    """One or more, as the client sent them."""
    parameters: dict[str, JSON]
    """The parameters for the task."""
    returns_errors: bool
    """Whether an invalid instance gets an error in place of its prediction, or fails the request."""
    stream_type: str = ""
    """JSON_LINES or EVENT_STREAM, if the client requests a stream."""
    is_explained: bool = False
    """Whether the client requests an explanation in place of each prediction."""


class Response(NamedTuple):
    """The response to one request."""

    code: HTTPStatus
    body: str
    """JSON text."""
    cause: str = ""
    """With a 500 the exception of the task in one line, which no client gets."""
    content_type: str = JSON_TYPE
    chunks: Chunks | None = None
    """The parts of a stream, which has no `body`."""


def parse_body(body: bytes | str, accept: str = "") -> Request:
    """Parse a request's body; `accept` is its header of that name. Raises InvalidArgumentError."""
    return parse_document(parse_json(body, _reject_constant), accept)


def parse_json(body: bytes | str, parse_constant: Callable[[str], JSON] | None = None) -> JSON:
    """Return a body's JSON; `parse_constant` replaces NaN and Infinity. Raises InvalidArgumentError."""
    marks = (b"[", b"{", b",") if isinstance(body, bytes) else ("[", "{", ",")
    arrays, objects, commas = (body.count(mark) for mark in marks)  # type: ignore[arg-type]
    if arrays + objects > MAX_CONTAINERS or commas > MAX_VALUES:
        raise InvalidArgumentError(
            f"the body has more than {MAX_CONTAINERS} arrays and objects or {MAX_VALUES} values: "
            "send fewer instances in a request, or images as base64"
        )
    try:
        return json.loads(body, parse_constant=parse_constant)
    except RecursionError:
        raise InvalidArgumentError("the body is nested too deeply") from None
    except ValueError as error:  # includes JSONDecodeError and UnicodeDecodeError
        raise InvalidArgumentError(f"the body is not JSON: {error}") from None


def parse_document(document: JSON, accept: str = "") -> Request:
    """Return the request in parsed JSON; raise InvalidArgumentError."""
    instances, parameters = parse_instances(document), document.get("parameters")
    if len(instances) > MAX_INSTANCES:
        got = len(instances)
        raise InvalidArgumentError(f"instances: expected at most {MAX_INSTANCES}; got {got}")
    if parameters is None:
        parameters = {}
    if not isinstance(parameters, dict):
        raise InvalidArgumentError(f"parameters: expected an object; got {_json_type(parameters)}")
    on_error = parameters.get(ON_ERROR)
    if on_error not in (None, "return"):
        raise InvalidArgumentError('parameters.on_error: expected "return", or leave it out')
    is_streamed, is_explained = parameters.get(STREAM), parameters.get(EXPLAIN, False)
    if not (is_streamed is None or isinstance(is_streamed, bool)):
        kind = _json_type(is_streamed)
        raise InvalidArgumentError(f"parameters.stream: expected true or false; got {kind}")
    if not isinstance(is_explained, bool):
        kind = _json_type(is_explained)
        raise InvalidArgumentError(f"parameters.explain: expected true or false; got {kind}")
    stream_type = find_stream_type(accept, is_streamed)
    if is_explained and stream_type:
        raise InvalidArgumentError(
            "parameters.explain: explanations are not streamed; expected no stream: true and no header "
            f"Accept: {EVENT_STREAM}"
        )
    own = (ON_ERROR, STREAM, EXPLAIN)
    for_task = {key: value for key, value in parameters.items() if key not in own}
    return Request(instances, for_task, on_error is not None, stream_type, is_explained)


def parse_instances(document: JSON) -> list[JSON]:
    """Return the instances in parsed JSON; raise InvalidArgumentError."""
    if not isinstance(document, dict):
        raise InvalidArgumentError(f"expected an object, {EXAMPLE}; got {_json_type(document)}")
    if "instances" not in document:
        raise InvalidArgumentError(f"instances: missing; expected {EXAMPLE}")
    instances: JSON = document["instances"]
    if not isinstance(instances, list):
        raise InvalidArgumentError(f"instances: expected an array; got {_json_type(instances)}")
    if not instances:
        raise InvalidArgumentError("instances: expected at least one; got an empty array")
    return instances


def find_stream_type(accept: str, is_streamed: bool | None = None) -> str:
    """Return the content type of the stream that a client requests by its Accept header or `parameters.stream`.

    It is "" if the client requests none. `parameters.stream` overrides the header.
    """
    has_events = EVENT_STREAM in accept.lower()
    if not (has_events if is_streamed is None else is_streamed):
        return ""
    return EVENT_STREAM if has_events else JSON_LINES


def parse_media_type(content_type: str) -> str:
    """Return a content type without its parameters, in lowercase."""
    return content_type.partition(";")[0].strip().lower()


def format_predictions(text: str, count: int) -> Response:
    """Return the response with the JSON text of an array of `count` predictions, one per instance.

    Raises RequestError if it is too large.
    """
    body = f'{{"predictions":{text}}}'
    if len(body) > MAX_RESPONSE_BYTES:  # the encoder writes only ASCII: a character is a byte
        reason = f"the response has {len(body)} bytes, the limit is {MAX_RESPONSE_BYTES}"
        if count > 1:
            raise InvalidArgumentError(f"{reason}: send fewer instances in a request")
        raise InternalError(reason)
    return Response(HTTPStatus.OK, body)


def format_error(error: RequestError) -> Response:
    """Return the response with one error."""
    cause = error.cause if isinstance(error, InternalError) else ""
    return Response(error.code, json.dumps(error_object(error), separators=(",", ":")), cause)


def error_object(error: RequestError) -> dict[str, Any]:
    """Return an error in Google's format, for a response or in place of a prediction."""
    # A task's message may repeat the client's input, and TorchServe kills a worker, and fails its batch, over
    # a response that is too large.
    message = truncate(str(error), MAX_MESSAGE_CHARS)
    return {"error": {"code": int(error.code), "status": error.status, "message": message}}


def truncate(text: str, max_chars: int) -> str:
    """Return at most `max_chars` characters of a text, followed by "..." if it was longer."""
    return text if len(text) <= max_chars else f"{text[:max_chars]}..."


def _reject_constant(constant: str) -> NoReturn:
    raise ValueError(f"{constant} is not a JSON number")


def _json_type(value: JSON) -> str:
    names = {dict: "an object", list: "an array", str: "a string", bool: "a boolean"}
    return "null" if value is None else names.get(type(value), "a number")
