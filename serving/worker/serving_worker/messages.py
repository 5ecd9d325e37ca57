"""The messages between TorchServe's Java and a worker.

Source: ts/protocol/otf_message_handler.py of TorchServe 0.12.
"""

import socket
import struct
from collections.abc import Iterator, Sequence
from typing import Any

from ts.context import RequestProcessor

LOAD, PREDICT = b"L", b"I"
END_OF_LIST = -1
MARK = "X-From-Worker"
"""The header of a worker's response. Java's own errors lack it, and nginx replaces them."""
MIN_RECV_BYTES, MAX_RECV_BYTES = 1 << 16, 1 << 20
"""The bounds of one `recv`: few calls for a large message."""

_INT = struct.Struct("!i")


class FrontendDisconnectedError(Exception):
    """Java closed the connection, so the worker is no longer needed."""


class Messages:
    """Reads and parses Java's messages through a buffer."""

    def __init__(self, connection: socket.socket) -> None:
        self._connection = connection
        self._buffer = bytearray()
        self._position = 0

    def read_command(self) -> bytes:
        """Wait for the next message and return its first byte."""
        del self._buffer[: self._position]
        self._position = 0
        return bytes(self._read(1))

    def read_load(self) -> dict[str, Any]:
        """Read the rest of a LOAD message."""
        message: dict[str, Any] = {"modelName": self._read_field(), "modelPath": self._read_field()}
        message["batchSize"] = self._read_int()
        message["handler"] = self._read_field()
        if (gpu := self._read_int()) >= 0:
            message["gpu"] = gpu
        message["envelope"] = self._read_field()
        message["limitMaxImagePixels"] = self._read(1) != b"\0"
        return message

    def read_requests(self) -> tuple[list[str], list[RequestProcessor], list[dict[str, bytearray]]]:
        """Read the rest of a PREDICT message: the requests' IDs, headers and parameters."""
        ids, headers, data = [], [], []
        while (length := self._read_int()) != END_OF_LIST:
            ids.append(self._read(length).decode())
            properties: dict[str, Any] = {}
            while (length := self._read_int()) != END_OF_LIST:
                name = self._read(length).decode()
                properties[name] = self._read_field().decode()
            item = {}
            while (length := self._read_int()) != END_OF_LIST:
                name = self._read(length).decode()
                properties[name] = {"content-type": self._read_field().decode()}
                item[name] = self._read_field()
            headers.append(RequestProcessor(properties))
            data.append(item)
        return ids, headers, data

    def _read_int(self) -> int:
        start = self._position
        if start + 4 > len(self._buffer):
            self._fill(start + 4)
        self._position = start + 4
        value: int = _INT.unpack_from(self._buffer, start)[0]
        return value

    def _read_field(self) -> bytearray:
        return self._read(self._read_int())

    def _read(self, count: int) -> bytearray:
        end = self._position + count
        if end > len(self._buffer):
            self._fill(end)
        content = self._buffer[self._position : end]
        self._position = end
        return content

    def _fill(self, end: int) -> None:
        while (missing := end - len(self._buffer)) > 0:
            received = self._connection.recv(min(max(missing, MIN_RECV_BYTES), MAX_RECV_BYTES))
            if not received:
                raise FrontendDisconnectedError
            self._buffer += received


def encode_responses(
    ids: list[str],
    bodies: Sequence[str | bytes],
    requests: Sequence[RequestProcessor],
    *,
    is_last: bool = True,
) -> bytes:
    """Return the message with the response to each request of a batch, or with a part of it."""
    message = [_HEAD]
    for request_id, body, response in zip(ids, bodies, requests, strict=True):
        code, phrase = response.get_response_status_code(), response.get_response_status_phrase()
        headers = response.get_response_headers() | {MARK: "1"}
        if is_last and "ts_stream_next" in headers:
            headers["ts_stream_next"] = "false"
        message += _text(request_id)
        message += _text(headers.get("content-type") or "")
        message.append(_INT.pack(200 if code is None else code))
        message += _text(phrase or "")
        message.append(_INT.pack(len(headers)))
        for name, value in headers.items():
            message += _text(name)
            message += _text(value)
        message += _text(body)
    message.append(_INT.pack(END_OF_LIST))
    return b"".join(message)


def parse_responses(message: bytes) -> Iterator[tuple[str, bytes]]:
    """Yield the ID and the body of each response in a message for Java."""
    position = _INT.size

    def read() -> bytes:
        nonlocal position
        (length,) = _INT.unpack_from(message, position)
        position += _INT.size + length
        return message[position - length : position]

    read()  # the message's own text
    while _INT.unpack_from(message, position)[0] != END_OF_LIST:
        request_id = read().decode()
        read()  # content type
        position += _INT.size  # status
        read()  # phrase
        (headers,) = _INT.unpack_from(message, position)
        position += _INT.size
        for _ in range(2 * headers):
            read()
        yield request_id, bytes(read())


def _text(value: str | bytes) -> tuple[bytes, bytes]:
    content = value.encode() if isinstance(value, str) else value
    return _INT.pack(len(content)), content


_HEAD = b"".join((_INT.pack(200), *_text("Prediction success")))
