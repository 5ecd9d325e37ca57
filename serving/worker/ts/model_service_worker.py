"""The process that TorchServe's Java starts for every worker, in place of TorchServe's own.

Java finds it here because `serving/torchserve.py` names this folder's parent as the server's
home. It speaks the same messages, loads archives with TorchServe's own loader and serves
TorchServe's own handlers. What it leaves out is paid at each request: a system call and three
Python calls for every field of a message, and lines of metrics that Java reads, parses and
throws away. Source of the messages: ts/protocol/otf_message_handler.py of TorchServe 0.12.
"""

import json
import logging
import os
import socket
import struct
import sys
import time
from collections.abc import Sequence
from typing import Any, ClassVar, NoReturn

from ts.arg_parser import ArgParser
from ts.context import Context, RequestProcessor
from ts.model_service_worker import TorchModelServiceWorker
from ts.protocol.otf_message_handler import create_load_model_response, create_predict_response
from ts.service import PredictionException, Service

LOAD, PREDICT = b"L", b"I"
END_OF_LIST = -1
MIN_RECV_BYTES, MAX_RECV_BYTES = 1 << 16, 1 << 20
"""Bytes asked of the socket by one call; a large message is read in few calls."""

log = logging.getLogger(__name__)


class FrontendDisconnectedError(Exception):
    """Java closed the connection: the worker is no longer wanted."""


class Lines(logging.Formatter):
    """Warnings and errors as a JSON object a line, which serving/logs.py reads.

    What is less stays text, as TorchServe's Java waits for some of it.
    """

    requests: ClassVar[list[RequestProcessor]] = []
    """The headers of the requests that are worked on now."""

    def format(self, record: logging.LogRecord) -> str:
        """As logging.Formatter says: one line."""
        said = super().format(record)
        if record.levelno < logging.WARNING:
            return " ".join(said.split("\n"))
        line = {
            "severity": record.levelname,
            "message": said,
            "requests": self._all("X-Request-Id"),
        }
        traces = self._all("X-Trace")
        if len(set(traces)) == 1:  # a line has room for one
            line["trace"] = traces[0]
        return json.dumps(line)

    def _all(self, header: str) -> list[str]:
        found = (each.get_request_property(header) for each in self.requests)
        return [each for each in found if each]


class Telling:
    """Datagrams to telemetry/: what a batch took. Nobody waits for it; what is lost is counted."""

    def __init__(self, wire: socket.socket | None) -> None:
        """`wire` is connected to telemetry/; without one nothing is told."""
        self._wire, self._lost = wire, 0
        self.stages: Sequence[int] | None = None
        """What the handler tells of the batch that it is at; None before it does."""

    def take(self, stages: Sequence[int]) -> None:
        """For the handler: when its stages began and ended."""
        self.stages = stages

    def started(self) -> None:
        """Tell that the model is loaded."""
        self._send({"started": {"process": os.getpid()}})

    def batch(self, requests: list[RequestProcessor], arrived: int) -> None:
        """Tell of a batch that was answered; the entrypoint's own question is no request."""
        if self._wire is None:
            return
        named = [
            (one, about.get_request_property("X-Sent"))
            for about in requests
            if (one := about.get_request_property("X-Request-Id"))
        ]
        if named:
            times = {"arrived": arrived, "ended": time.time_ns(), "stages": self.stages}
            self._send({"batch": {"requests": named, **times, "lost": self._lost}})

    def _send(self, said: dict[str, Any]) -> None:
        if self._wire is None:
            return
        try:
            self._wire.send(json.dumps(said).encode(), socket.MSG_DONTWAIT)
            self._lost = 0
        except OSError:
            self._lost += 1


def _wire(port: str | None) -> socket.socket | None:
    """Connect to telemetry/ on a UDP port of loopback."""
    if not port:
        return None
    wire = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
    wire.connect(("127.0.0.1", int(port)))
    return wire


class Messages:
    """What Java sends, read through a buffer."""

    def __init__(self, connection: socket.socket) -> None:
        self._connection = connection
        self._buffer = bytearray()
        self._at = 0

    def command(self) -> bytes:
        """Wait for the next message and return its first byte."""
        del self._buffer[: self._at]
        self._at = 0
        return bytes(self._take(1))

    def load(self) -> dict[str, Any]:
        """Read what follows LOAD."""
        message: dict[str, Any] = {"modelName": self._bytes(), "modelPath": self._bytes()}
        message["batchSize"] = self._int()
        message["handler"] = self._bytes()
        if (gpu := self._int()) >= 0:
            message["gpu"] = gpu
        message["envelope"] = self._bytes()
        message["limitMaxImagePixels"] = self._take(1) != b"\0"
        return message

    def requests(self) -> tuple[list[str], list[RequestProcessor], list[dict[str, bytearray]]]:
        """Read what follows PREDICT: the requests' ids, headers and parameters."""
        ids, headers, data = [], [], []
        while (length := self._int()) != END_OF_LIST:
            ids.append(self._take(length).decode())
            about: dict[str, Any] = {}
            while (length := self._int()) != END_OF_LIST:
                name = self._take(length).decode()
                about[name] = self._bytes().decode()
            item = {}
            while (length := self._int()) != END_OF_LIST:
                name = self._take(length).decode()
                about[name] = {"content-type": self._bytes().decode()}
                item[name] = self._bytes()
            headers.append(RequestProcessor(about))
            data.append(item)
        return ids, headers, data

    def _int(self) -> int:
        at = self._at
        if at + 4 > len(self._buffer):
            self._fill(at + 4)
        self._at = at + 4
        value: int = _INT.unpack_from(self._buffer, at)[0]
        return value

    def _bytes(self) -> bytearray:
        return self._take(self._int())

    def _take(self, count: int) -> bytearray:
        end = self._at + count
        if end > len(self._buffer):
            self._fill(end)
        piece = self._buffer[self._at : end]
        self._at = end
        return piece

    def _fill(self, end: int) -> None:
        while (missing := end - len(self._buffer)) > 0:
            piece = self._connection.recv(min(max(missing, MIN_RECV_BYTES), MAX_RECV_BYTES))
            if not piece:
                raise FrontendDisconnectedError
            self._buffer += piece


class Worker(TorchModelServiceWorker):  # type: ignore[misc]  # TorchServe is untyped
    """A worker that serves one connection for as long as it lasts."""

    def handle_connection(self, connection: socket.socket) -> NoReturn:
        """Load a model, then answer batches until Java leaves (raises FrontendLeft)."""
        messages, service = Messages(connection), None
        telling = Telling(_wire(os.environ.get("TELEMETRY_PORT")))
        while True:
            command = messages.command()
            if command == PREDICT and service is not None:
                arrived, telling.stages = time.time_ns(), None
                ids, headers, data = messages.requests()
                answer = _predict(service, ids, headers, data)
                # Before the answer: else the front door might be the first to tell of it.
                telling.batch(headers, arrived)
                connection.sendall(answer)
                Lines.requests = []
            elif command == LOAD:
                service, result, code = self.load_model(messages.load())
                connection.sendall(create_load_model_response(code, result))
                if code != 200:
                    raise RuntimeError(f"{code} - {result}")
                service.set_cl_socket(connection)
                service.context.tell_stages = telling.take
                telling.started()
            else:
                raise ValueError(f"unexpected command {command!r}")


def _predict(
    service: Service, ids: list[str], headers: list[RequestProcessor], data: list[dict[str, Any]]
) -> bytes:
    """Give a batch to the handler; return the message that answers it."""
    Lines.requests = headers
    context = service.context
    by_index = dict(enumerate(ids))
    context.request_ids = by_index
    context.metrics.request_ids = by_index
    context.request_processor = headers
    context.cl_socket = service.cl_socket
    try:
        bodies = service._entry_point(data, context)
    except MemoryError:
        log.exception("out of memory")
        return _failure(by_index, "Out of resources", 507)
    except PredictionException as error:
        log.exception("prediction failed")
        return _failure(by_index, error.message, error.error_code)
    except Exception as error:  # whatever a handler raises: TorchServe's own worker answers so
        log.exception("the handler failed")
        if "CUDA" in str(error):
            return _failure(by_index, "Out of resources", 507)
        return _failure(by_index, "Prediction failed", 503)
    if not isinstance(bodies, list) or len(bodies) != len(ids):
        log.error("the handler gave no list of %d answers, one for each request", len(ids))
        return _failure(by_index, "Invalid model predict output", 503)
    return _answer(context, ids, bodies)


def _failure(ids: dict[int, str], message: str, code: int) -> bytes:
    return bytes(create_predict_response(None, ids, message, code))


def _answer(context: Context, ids: list[str], bodies: list[Any]) -> bytes:
    if context.stopping_criteria or not all(isinstance(body, (str, bytes)) for body in bodies):
        by_index = dict(enumerate(ids))
        return bytes(create_predict_response(bodies, by_index, "Prediction success", 200, context))
    message = [_HEAD]
    for one, body, about in zip(ids, bodies, context.request_processor, strict=True):
        code, phrase = about.get_response_status_code(), about.get_response_status_phrase()
        headers = about.get_response_headers()
        if headers.get("ts_stream_next") == "true":
            headers["ts_stream_next"] = "false"
        message += _text(one)
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


def _text(value: str | bytes) -> tuple[bytes, bytes]:
    content = value.encode() if isinstance(value, str) else value
    return _INT.pack(len(content)), content


_INT = struct.Struct("!i")
_HEAD = b"".join((_INT.pack(200), *_text("Prediction success")))


def main() -> None:
    """Serve until Java leaves."""
    lines = logging.StreamHandler(sys.stdout)
    lines.setFormatter(Lines("%(message)s"))
    logging.basicConfig(handlers=[lines], level=os.environ.get("WORKER_LOG_LEVEL", "INFO"))
    # The clients of these tell every request that they make; it is not the model that speaks.
    for name in ("PIL", "urllib3", "google"):
        logging.getLogger(name).setLevel(logging.INFO)
    args = ArgParser.model_service_worker_args().parse_args()
    worker = Worker(
        args.sock_type, args.sock_name, args.host, args.port, args.metrics_config, args.async_comm
    )
    try:
        worker.run_server()
    except FrontendDisconnectedError:
        log.info("Frontend disconnected.")
    except Exception:
        log.exception("Backend worker process died.")
        sys.exit(1)
    finally:
        if args.sock_type == "unix" and os.path.exists(args.sock_name):
            os.remove(args.sock_name)


if __name__ == "__main__":
    main()
