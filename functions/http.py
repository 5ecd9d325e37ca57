"""Read arguments and bodies within size limits, and write plain text responses."""

import json
from collections.abc import Iterator
from http import HTTPStatus
from typing import Any, Final

from flask import Request, Response

MAX_BODY_BYTES: Final = 1 << 20
"""Limit of a body that has one argument."""
MAX_READ_BYTES: Final = 64 << 20
"""A body over the limit is read up to here, so that its client receives the error. Cloud Run accepts 32 MiB."""
CHUNK_BYTES: Final = 1 << 16
METHODS: Final = "GET, HEAD, POST"


class HTTPError(Exception):
    """A request is invalid. The client gets the text, with the HTTP status."""

    def __init__(self, reason: str, status: HTTPStatus = HTTPStatus.BAD_REQUEST) -> None:
        super().__init__(reason)
        self.status = status


def get_argument(request: Request, name: str, default: Any = None) -> Any:
    """Return an argument from the query or from the JSON body; raise HTTPError."""
    if request.method not in METHODS.split(", "):
        raise HTTPError(f"expected {METHODS}", HTTPStatus.METHOD_NOT_ALLOWED)
    if name in request.args:
        return request.args[name]
    body = read_body(request, MAX_BODY_BYTES)
    if not body.strip():
        return default
    try:
        document = json.loads(body)
    except RecursionError:
        raise HTTPError("the body is nested too deeply") from None
    except ValueError as error:
        raise HTTPError(f"the body is not JSON: {error}") from None
    if not isinstance(document, dict):
        expected = f'expected an object, {{"{name}": ...}}'
        raise HTTPError(f"the body: {expected}; got {truncate_json(document)}")
    return document.get(name, default)


def read_body(request: Request, max_bytes: int) -> bytes:
    """Return the body, with or without Content-Length; raise HTTPError (413) if it is too large."""
    # The stream ignores Content-Type; `curl -d` declares a form, which flask would parse.
    chunks, size = [], 0
    while size <= MAX_READ_BYTES and (chunk := request.stream.read(CHUNK_BYTES)):
        size += len(chunk)
        if size <= max_bytes:
            chunks.append(chunk)
    if size > max_bytes:
        reason = f"the request is larger than the limit of {max_bytes} bytes"
        raise HTTPError(reason, HTTPStatus.REQUEST_ENTITY_TOO_LARGE)
    return b"".join(chunks)


def truncate_json(value: Any) -> str:
    """Return a client's value as short ASCII JSON, for an error message."""
    text = json.dumps(value)
    return text if len(text) <= 40 else f"{text[:40]}..."


def plain_text(text: str, status: HTTPStatus = HTTPStatus.OK) -> Response:
    """Return a text response that browsers do not render as HTML; raise HTTPError if it is not Unicode."""
    try:
        encoded = text.encode()
    except UnicodeEncodeError as error:
        raise HTTPError(f"cannot be encoded as UTF-8: {error.reason}") from None
    return build_response(encoded, "text/plain; charset=utf-8", status)


def build_response(
    content: bytes | str | Iterator[str],
    content_type: str,
    status: HTTPStatus,
    allow: str = METHODS,
) -> Response:
    """Return a response, which is streamed if `content` is an iterator; a 405 has the `Allow` header."""
    headers = {"X-Content-Type-Options": "nosniff"}
    if status is HTTPStatus.METHOD_NOT_ALLOWED:
        headers["Allow"] = allow
    return Response(content, status, headers, content_type=content_type)
