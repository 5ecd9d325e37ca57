"""What a function is asked, and what it says: bodies within bounds, one argument, plain text."""

import json
from http import HTTPStatus
from typing import Any, Final

from flask import Request, Response

LARGEST: Final = 1 << 20
"""Bytes of a body: a sentence, or four numbers."""
MOST_READ: Final = 64 << 20
"""Bytes that are read of a body which is too large, so that its client hears the answer. Cloud Run
itself lets no more than 32 MiB through."""
PIECE: Final = 1 << 16
METHODS: Final = "GET, HEAD, POST"


class HTTPError(Exception):
    """What the client has to mend, in words for the client, and its HTTP status."""

    def __init__(self, reason: str, status: HTTPStatus = HTTPStatus.BAD_REQUEST) -> None:
        super().__init__(reason)
        self.status = status


def argument(request: Request, name: str, absent: Any = None) -> Any:
    """Return an argument of a GET's or POST's query, or of its JSON body; raise Refused.

    `absent` is returned where neither names it.
    """
    if request.method not in METHODS.split(", "):
        raise HTTPError(f"expected {METHODS}", HTTPStatus.METHOD_NOT_ALLOWED)
    if name in request.args:
        return request.args[name]
    sent = body(request, LARGEST)
    if not sent.strip():
        return absent
    try:
        document = json.loads(sent)
    except RecursionError:
        raise HTTPError("the body is nested too deeply") from None
    except ValueError as error:
        raise HTTPError(f"the body is not JSON: {error}") from None
    if not isinstance(document, dict):
        raise HTTPError(f'the body: expected an object, {{"{name}": ...}}; got {shown(document)}')
    return document.get(name, absent)


def body(request: Request, most: int) -> bytes:
    """Return a body of at most so many bytes, its length announced or not; raise Refused (413)."""
    # No Content-Type makes a form of it: `curl -d` announces one whatever it sends.
    pieces, got = [], 0
    while got <= MOST_READ and (piece := request.stream.read(PIECE)):
        got += len(piece)
        if got <= most:
            pieces.append(piece)
    if got > most:
        reason = f"the request is larger than the limit of {most} bytes"
        raise HTTPError(reason, HTTPStatus.REQUEST_ENTITY_TOO_LARGE)
    return b"".join(pieces)


def shown(value: Any) -> str:
    """Write what a client sent into a reason: as JSON, ASCII alone, and not too much of it."""
    written = json.dumps(value)
    return written if len(written) <= 40 else f"{written[:40]}..."


def text(said: str, status: HTTPStatus = HTTPStatus.OK) -> Response:
    """Answer in plain text, which no browser takes for a page; raise Refused for no Unicode."""
    try:
        encoded = said.encode()
    except UnicodeEncodeError as error:
        raise HTTPError(f"not to be written as UTF-8: {error.reason}") from None
    return respond(encoded, "text/plain; charset=utf-8", status)


def respond(content: bytes | str, kind: str, status: HTTPStatus, allow: str = METHODS) -> Response:
    """Answer with content of a kind; a 405 says what is allowed."""
    headers = {"X-Content-Type-Options": "nosniff"}
    if status is HTTPStatus.METHOD_NOT_ALLOWED:
        headers["Allow"] = allow
    return Response(content, status, headers, content_type=kind)
