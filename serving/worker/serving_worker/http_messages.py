"""Requests from nginx to a worker and their responses: HTTP/1.1, one request a connection.

Only nginx and the container's own probe connect. A request has a Content-Length, unless its client sent neither a
length nor a body.
"""

import re
import socket
from http import HTTPStatus
from typing import Any, NamedTuple

from ts.context import RequestProcessor

RECV_BYTES = 1 << 16
LAST_CHUNK = b"0\r\n\r\n"
TRANSFER_TIMEOUT_S = 10
"""How long nginx may pause while it sends a large body or receives a large response. It buffers both, so
that a slow client does not hold a worker."""
MAX_COPIED_BYTES = 1 << 16
"""A body up to this size is sent together with its headers."""
OWN_HEADERS = re.compile(
    "connection|content-length|keep-alive|trailer|transfer-encoding|ts_stream_next|upgrade|x-accel-.*",
    re.I,
)
"""Headers that a handler does not decide. nginx would follow those that begin with X-Accel."""
HEADER_NAME = re.compile(r"[!#$%&'*+.^_`|~0-9A-Za-z-]+")


class ProtocolError(Exception):
    """What was received is not a whole request, or does not fit into memory."""


class Request(NamedTuple):
    """A request that waits for its response."""

    connection: socket.socket
    processor: RequestProcessor
    """The request's headers and, once the handler has set them, the status and headers of the response."""
    data: dict[str, bytearray]
    """What TorchServe passes to a handler: `body`."""

    @property
    def is_abandoned(self) -> bool:
        """Whether nginx has closed the connection, because the client left or the time was up."""
        try:
            return not self.connection.recv(1, socket.MSG_DONTWAIT | socket.MSG_PEEK)
        except BlockingIOError:
            return False
        except OSError:
            return True


def receive(connection: socket.socket) -> Request:
    """Read a request; raise ProtocolError, or OSError."""
    try:
        received = connection.recv(RECV_BYTES, socket.MSG_DONTWAIT)
    except BlockingIOError:  # nginx has connected and has not written yet
        received = b""
    if (end := received.find(b"\r\n\r\n")) < 0:
        connection.settimeout(TRANSFER_TIMEOUT_S)
        while (end := received.find(b"\r\n\r\n")) < 0:
            more = connection.recv(RECV_BYTES)
            if not more:
                raise ProtocolError
            received += more
        connection.settimeout(None)  # with a timeout Python waits even where recv may not
    lines = received[:end].decode("latin-1").split("\r\n")
    try:
        properties: dict[str, Any] = dict(line.split(": ", 1) for line in lines[1:])
        size = int(properties.get("Content-Length", 0))
    except ValueError as error:
        raise ProtocolError from error
    body = bytearray(received[end + 4 :])
    if len(body) < size:
        _receive_rest(connection, body, size)
    properties["body"] = {"content-type": properties.get("Content-Type", "")}
    return Request(connection, RequestProcessor(properties), {"body": body})


def _receive_rest(connection: socket.socket, body: bytearray, size: int) -> None:
    connection.settimeout(TRANSFER_TIMEOUT_S)
    position = len(body)
    try:
        body.extend(bytes(size - position))
    except (MemoryError, OverflowError) as error:
        raise ProtocolError from error
    with memoryview(body) as view:
        while position < size:
            count = connection.recv_into(view[position:])
            if not count:
                raise ProtocolError
            position += count
    connection.settimeout(None)


def format_head(processor: RequestProcessor, body_bytes: int | None) -> bytes:
    """Return the status line and the headers of a response; without a length the body comes in chunks."""
    code = processor.get_response_status_code() or 200
    phrase = processor.get_response_status_phrase() or _find_phrase(code)
    lines = [f"HTTP/1.1 {code} {_clean(phrase)}", "Connection: close"]
    for name, value in processor.get_response_headers().items():
        if HEADER_NAME.fullmatch(name) and not OWN_HEADERS.fullmatch(name):
            lines.append(f"{name}: {_clean(value)}")
    if body_bytes is None:  # nginx sends each chunk at once
        lines += ["Transfer-Encoding: chunked", "X-Accel-Buffering: no"]
    else:
        lines.append(f"Content-Length: {body_bytes}")
    return "\r\n".join((*lines, "", "")).encode(errors="replace")


def format_chunk(part: bytes) -> bytes:
    """Return a part of a body in chunks; nothing for an empty one, which would end the body."""
    return b"%x\r\n%b\r\n" % (len(part), part) if part else b""


def _find_phrase(code: int) -> str:
    try:
        return HTTPStatus(code).phrase
    except ValueError:
        return "Unknown"


def _clean(value: object) -> str:
    return re.sub(r"[\r\n\0]+", " ", str(value))


def send_response(request: Request, body: bytes) -> None:
    """Send a whole response, and close the connection; nothing is raised if nginx has closed it."""
    head = format_head(request.processor, len(body))
    with request.connection as connection:
        try:
            if len(body) <= MAX_COPIED_BYTES:
                connection.sendall(head + body)
            else:
                connection.settimeout(TRANSFER_TIMEOUT_S)
                connection.sendall(head)
                connection.sendall(body)
        except OSError:  # the client has left
            return
