"""The worker process: loads a model for TorchServe's Java, and answers requests until Java closes the connection.

Requests come from Java, or from nginx directly if the server names the socket that hands out the listener. It
uses TorchServe's messages, its archive loader and its handlers. It leaves out what costs time on
every request: a system call and three Python calls per field of a message, and lines of metrics
that Java parses and discards. docs/decisions.md has the reasons and how to turn it off.
"""

import faulthandler
import logging
import os
import socket
import sys
import time
from collections.abc import Iterator
from typing import Any, NoReturn

from ts.arg_parser import ArgParser
from ts.context import RequestProcessor
from ts.model_service_worker import TorchModelServiceWorker
from ts.protocol.otf_message_handler import create_load_model_response
from ts.service import Service

from .cores import create_shared_cores
from .device import DeviceError, check_assigned, check_device, select_gpu
from .direct import Batches, DirectServer, receive_listener
from .limit import ResponseTimeoutError, read_limit
from .logs import JsonFormatter, configure_logging
from .messages import LOAD, PREDICT, FrontendDisconnectedError, Messages, encode_responses
from .service import Body, Runtime, predict
from .telemetry import create_sender

log = logging.getLogger(__name__)


class Worker(TorchModelServiceWorker):  # type: ignore[misc]  # TorchServe is untyped
    """Serves one connection until Java closes it."""

    def handle_connection(self, connection: socket.socket) -> NoReturn:
        """Load a model and answer requests; raise FrontendDisconnectedError at the end."""
        messages, telemetry = Messages(connection), create_sender(os.environ)
        runtime = Runtime(read_limit(), create_shared_cores(os.environ), telemetry)
        if (command := messages.read_command()) != LOAD:
            raise ValueError(f"unexpected command {command!r} before a model is loaded")
        request = messages.read_load()
        service, result, code = self.load_model(request)
        if code != 200:  # not answered: TorchServe would retry for minutes, and report no failure
            raise RuntimeError(f"{code} - {result}")
        service.set_cl_socket(connection)
        service.context.takes_iterators = True
        service.context.on_timings = telemetry.set_timings
        service.context.tell_stages = telemetry.set_timings  # for archives of version 0.1
        connection.sendall(create_load_model_response(code, result))
        telemetry.send_started()

        def answer() -> None:
            _answer(connection, messages, service, runtime)

        if listener_socket := os.environ.get("LISTENER_SOCKET"):
            waits_s = (
                int(os.environ.get(name) or 0) / 1000
                for name in ("BATCH_DELAY_MS", "BATCH_GATHER_MS")
            )
            batches = Batches(request["batchSize"], *waits_s)
            listener = receive_listener(listener_socket)
            DirectServer(listener, service, batches, runtime).run(connection, answer)
        while True:
            runtime.limit.wait_for(connection)
            answer()

    def load_model(self, load_model_request: dict[str, Any]) -> tuple[Service, str, int]:
        """Load the model on this worker's GPU, if it has one; return the service, a text and a status.

        Raises DeviceError.
        """
        if (gpu := select_gpu(os.environ, self.sock_name)) is not None:
            load_model_request["gpu"] = gpu
        check_assigned(load_model_request.get("gpu"))
        loaded: tuple[Service, str, int] = super().load_model(load_model_request)
        return loaded


def _answer(
    connection: socket.socket, messages: Messages, service: Service, runtime: Runtime
) -> None:
    """Answer one message of Java."""
    if (command := messages.read_command()) != PREDICT:
        raise ValueError(f"unexpected command {command!r}")
    arrived, runtime.telemetry.timings = time.time_ns(), None
    ids, requests, data = messages.read_requests()
    bodies = predict(service, ids, requests, data, runtime)
    whole = _send_parts(connection, ids, requests, bodies, runtime)
    # Sent before the response, so that nginx's event arrives after this one.
    runtime.telemetry.send_batch(requests, arrived)
    connection.sendall(encode_responses(ids, whole, requests))
    JsonFormatter.requests = []
    check_device()


def _send_parts(
    connection: socket.socket,
    ids: list[str],
    requests: list[RequestProcessor],
    bodies: list[Body],
    runtime: Runtime,
) -> list[bytes]:
    """Send the parts of streams as they are computed; return the bodies of the others, and empty ones for streams.

    A stream that fails ends: TorchServe's messages cannot mark it as cut.
    """
    streams = {index: body for index, body in enumerate(bodies) if isinstance(body, Iterator)}
    while streams:
        for index, parts in list(streams.items()):
            message = b""
            try:
                with runtime.limit, runtime.cores:
                    part = next(parts, None)
                if part:
                    requests[index].add_response_property("ts_stream_next", "true")
                    one = [ids[index]], [part], [requests[index]]
                    message = encode_responses(*one, is_last=False)
            except (ResponseTimeoutError, Exception):
                log.exception("a stream failed")
                part = None
            if part is None:
                del streams[index]
            connection.sendall(message)
    return [body if isinstance(body, bytes) else b"" for body in bodies]


def main() -> None:
    """Serve until Java closes the connection."""
    configure_logging()
    faulthandler.enable()  # a crash of native code names the line of the handler
    args = ArgParser.model_service_worker_args().parse_args()
    worker = Worker(
        args.sock_type, args.sock_name, args.host, args.port, args.metrics_config, args.async_comm
    )
    try:
        worker.run_server()
    except FrontendDisconnectedError:
        log.info("Frontend disconnected.")
    except DeviceError as error:
        log.error("DeviceError: %s", error)
        sys.exit(1)
    except Exception:
        log.exception("Backend worker process died.")
        sys.exit(1)
    finally:
        if args.sock_type == "unix" and os.path.exists(args.sock_name):
            os.remove(args.sock_name)
