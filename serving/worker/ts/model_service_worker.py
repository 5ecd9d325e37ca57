"""The worker process: TorchServe's Java starts this file in place of the worker of the package `ts`.

Java finds it because `serving/torchserve.py` sets this folder's parent as the server's home. The
worker uses TorchServe's messages, its archive loader and its handlers. It leaves out what costs
time on every request: a system call and three Python calls per field of a message, and lines of
metrics that Java parses and discards. docs/decisions.md has the reasons and how to turn it off.
Source of the messages: ts/protocol/otf_message_handler.py of TorchServe 0.12.
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
"""The bounds of one `recv`: few calls for a large message."""

log = logging.getLogger(__name__)


class FrontendDisconnectedError(Exception):
    """Java closed the connection, so the worker is no longer needed."""


class JsonFormatter(logging.Formatter):
    """Formats warnings and errors as one JSON object a line, which serving/logs.py parses.

    Lower levels stay text, because TorchServe's Java waits for some of these lines.
    """

    requests: ClassVar[list[RequestProcessor]] = []
    """The headers of the requests that are being processed."""

    def format(self, record: logging.LogRecord) -> str:
        """Return the line."""
        message = super().format(record)
        if record.levelno < logging.WARNING:
            return " ".join(message.split("\n"))
        line = {
            "severity": record.levelname,
            "message": message,
            "requests": self._get_headers("X-Request-Id"),
        }
        traces = self._get_headers("X-Trace")
        if len(set(traces)) == 1:  # a log line has one trace
            line["trace"] = traces[0]
        return json.dumps(line)

    def _get_headers(self, name: str) -> list[str]:
        values = (headers.get_request_property(name) for headers in self.requests)
        return [value for value in values if value]


class TelemetrySender:
    """Sends the timings of each batch to the telemetry process as datagrams.

    Sending never blocks; the number of lost datagrams is sent with the next one.
    """

    def __init__(self, connection: socket.socket | None) -> None:
        """Send to the telemetry process by `connection`; send nothing if that is None."""
        self._connection, self._lost = connection, 0
        self.timings: Sequence[int] | None = None
        """The timings of the current batch; None until the handler has reported them."""

    def set_timings(self, timings: Sequence[int]) -> None:
        """Receive the handler's timings: nanoseconds since 1970, and the number of instances."""
        self.timings = timings

    def send_started(self) -> None:
        """Send that the model is loaded."""
        self._send({"started": {"process": os.getpid()}})

    def send_batch(self, requests: list[RequestProcessor], arrived: int) -> None:
        """Send that a batch was answered; health probes have no request ID and are left out."""
        if self._connection is None:
            return
        sent_times = [
            (request_id, headers.get_request_property("X-Sent"))
            for headers in requests
            if (request_id := headers.get_request_property("X-Request-Id"))
        ]
        if sent_times:
            times = {"arrived": arrived, "ended": time.time_ns(), "timings": self.timings}
            self._send({"batch": {"requests": sent_times, **times, "lost": self._lost}})

    def _send(self, event: dict[str, Any]) -> None:
        if self._connection is None:
            return
        try:
            self._connection.send(json.dumps(event).encode(), socket.MSG_DONTWAIT)
            self._lost = 0
        except OSError:
            self._lost += 1


def connect_telemetry(port: str | None) -> socket.socket | None:
    """Connect to the telemetry process's UDP port on loopback, if there is one."""
    if not port:
        return None
    connection = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
    connection.connect(("127.0.0.1", int(port)))
    return connection


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


class Worker(TorchModelServiceWorker):  # type: ignore[misc]  # TorchServe is untyped
    """Serves one connection until Java closes it."""

    def handle_connection(self, connection: socket.socket) -> NoReturn:
        """Load a model and answer batches; raise FrontendDisconnectedError at the end."""
        messages, service = Messages(connection), None
        telemetry = TelemetrySender(connect_telemetry(os.environ.get("TELEMETRY_PORT")))
        while True:
            command = messages.read_command()
            if command == PREDICT and service is not None:
                arrived, telemetry.timings = time.time_ns(), None
                ids, headers, data = messages.read_requests()
                answer = _predict(service, ids, headers, data)
                # Sent before the answer, so that nginx's event arrives after this one.
                telemetry.send_batch(headers, arrived)
                connection.sendall(answer)
                JsonFormatter.requests = []
            elif command == LOAD:
                service, result, code = self.load_model(messages.read_load())
                connection.sendall(create_load_model_response(code, result))
                if code != 200:
                    raise RuntimeError(f"{code} - {result}")
                service.set_cl_socket(connection)
                service.context.on_timings = telemetry.set_timings
                service.context.tell_stages = telemetry.set_timings  # for archives of version 0.1
                telemetry.send_started()
            else:
                raise ValueError(f"unexpected command {command!r}")


def _predict(
    service: Service, ids: list[str], headers: list[RequestProcessor], data: list[dict[str, Any]]
) -> bytes:
    """Pass a batch to the handler; return the response message."""
    JsonFormatter.requests = headers
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
    except Exception as error:  # the codes are those of TorchServe's own worker
        log.exception("the handler failed")
        if "CUDA" in str(error):
            return _failure(by_index, "Out of resources", 507)
        return _failure(by_index, "Prediction failed", 503)
    if not isinstance(bodies, list) or len(bodies) != len(ids):
        log.error("the handler did not return a list of %d responses", len(ids))
        return _failure(by_index, "Invalid model predict output", 503)
    return _encode(context, ids, bodies)


def _failure(ids: dict[int, str], message: str, code: int) -> bytes:
    return bytes(create_predict_response(None, ids, message, code))


def _encode(context: Context, ids: list[str], bodies: list[Any]) -> bytes:
    if context.stopping_criteria or not all(isinstance(body, (str, bytes)) for body in bodies):
        by_index = dict(enumerate(ids))
        return bytes(create_predict_response(bodies, by_index, "Prediction success", 200, context))
    message = [_HEAD]
    for request_id, body, response in zip(ids, bodies, context.request_processor, strict=True):
        code, phrase = response.get_response_status_code(), response.get_response_status_phrase()
        headers = response.get_response_headers()
        if headers.get("ts_stream_next") == "true":
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


def _text(value: str | bytes) -> tuple[bytes, bytes]:
    content = value.encode() if isinstance(value, str) else value
    return _INT.pack(len(content)), content


_INT = struct.Struct("!i")
_HEAD = b"".join((_INT.pack(200), *_text("Prediction success")))


def main() -> None:
    """Serve until Java closes the connection."""
    handler = logging.StreamHandler(sys.stdout)
    handler.setFormatter(JsonFormatter("%(message)s"))
    logging.basicConfig(handlers=[handler], level=os.environ.get("WORKER_LOG_LEVEL", "INFO"))
    # At DEBUG these libraries log each of their own requests, which are not the model's.
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
