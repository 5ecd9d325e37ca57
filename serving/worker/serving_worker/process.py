"""The worker process: loads a model for TorchServe's Java, and answers its batches.

It uses TorchServe's messages, its archive loader and its handlers. It leaves out what costs time on
every request: a system call and three Python calls per field of a message, and lines of metrics
that Java parses and discards. docs/decisions.md has the reasons and how to turn it off.
"""

import logging
import os
import socket
import sys
import time
from typing import Any, NoReturn

from ts.arg_parser import ArgParser
from ts.context import RequestProcessor
from ts.model_service_worker import TorchModelServiceWorker
from ts.protocol.otf_message_handler import create_load_model_response
from ts.service import PredictionException, Service

from .logs import JsonFormatter, configure_logging
from .messages import (
    LOAD,
    PREDICT,
    FrontendDisconnectedError,
    Messages,
    encode_failure,
    encode_responses,
)
from .telemetry import create_sender

log = logging.getLogger(__name__)


class Worker(TorchModelServiceWorker):  # type: ignore[misc]  # TorchServe is untyped
    """Serves one connection until Java closes it."""

    def handle_connection(self, connection: socket.socket) -> NoReturn:
        """Load a model and answer batches; raise FrontendDisconnectedError at the end."""
        messages, service = Messages(connection), None
        telemetry = create_sender(os.environ)
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
        return encode_failure(by_index, "Out of resources", 507)
    except PredictionException as error:
        log.exception("prediction failed")
        return encode_failure(by_index, error.message, error.error_code)
    except Exception as error:  # the codes are those of TorchServe's own worker
        log.exception("the handler failed")
        if "CUDA" in str(error):
            return encode_failure(by_index, "Out of resources", 507)
        return encode_failure(by_index, "Prediction failed", 503)
    if not isinstance(bodies, list) or len(bodies) != len(ids):
        log.error("the handler did not return a list of %d responses", len(ids))
        return encode_failure(by_index, "Invalid model predict output", 503)
    return encode_responses(context, ids, bodies)


def main() -> None:
    """Serve until Java closes the connection."""
    configure_logging()
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
