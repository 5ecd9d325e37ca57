"""Pass a batch to the handler, and turn what it returns or raises into response bodies."""

import io
import json
import logging
from collections.abc import Iterator
from typing import Any, NamedTuple

import torch
from ts.context import RequestProcessor
from ts.service import PredictionException, Service

from .cores import SharedCores
from .limit import ResponseTimeoutError, TimeLimit
from .logs import JsonFormatter
from .telemetry import TelemetrySender

Body = bytes | Iterator[str | bytes]
"""The body of a response, or its parts."""
STATUS_NAMES = {
    429: "RESOURCE_EXHAUSTED",
    500: "INTERNAL",
    503: "UNAVAILABLE",
    504: "DEADLINE_EXCEEDED",
}
"""Google's status by HTTP code; of other codes from 400 to 499: INVALID_ARGUMENT."""

log = logging.getLogger(__name__)


class ClientDisconnectedError(BaseException):
    """All clients of a batch have left. Not an Exception: a handler would catch it and continue."""


class Runtime(NamedTuple):
    """What surrounds each batch of a worker."""

    limit: TimeLimit
    cores: SharedCores
    telemetry: TelemetrySender


def predict(
    service: Service,
    ids: list[str],
    requests: list[RequestProcessor],
    data: list[dict[str, bytearray]],
    runtime: Runtime,
) -> list[Body]:
    """Return the body of each response; the handler has set statuses and headers in `requests`.

    Raises ClientDisconnectedError.
    """
    JsonFormatter.requests = requests
    context = service.context
    by_index = dict(enumerate(ids))
    context.request_ids = by_index
    context.metrics.request_ids = by_index
    context.request_processor = requests
    context.cl_socket = service.cl_socket
    try:
        with runtime.limit, runtime.cores:
            bodies = service._entry_point(data, context)
    except (ResponseTimeoutError, Exception) as error:
        log.exception("the handler failed")
        return _fail(requests, *_describe(error, runtime.limit))
    if not isinstance(bodies, list) or len(bodies) != len(ids):
        log.error("the handler did not return a list of %d responses", len(ids))
        return _fail(requests, 500, "the handler did not return one response per request")
    return [_to_body(body, request) for body, request in zip(bodies, requests, strict=True)]


def _describe(error: BaseException, limit: TimeLimit) -> tuple[int, str]:
    """Return the status and the message for an exception of the handler."""
    if isinstance(error, ResponseTimeoutError):
        text = (
            f"no response within the limit of {limit.seconds:g} s; RESPONSE_TIMEOUT_S sets another"
        )
        return 504, text
    if isinstance(error, PredictionException):
        return error.error_code, error.message
    if isinstance(error, (MemoryError, torch.OutOfMemoryError)):
        return 503, "the model is out of memory; send a smaller request, or retry"
    return 500, f"the handler failed: {type(error).__name__}"


def _to_body(value: Any, request: RequestProcessor) -> Body:
    """Convert what a handler returned for one request, as TorchServe does."""
    if isinstance(value, Iterator):
        return value
    try:
        return _encode(value)
    except Exception as error:  # noqa: BLE001  a handler may return anything
        log.error("the handler returned what cannot be sent: %s", error)
        return _fail([request], 500, "the handler returned what cannot be sent")[0]


def _encode(value: Any) -> bytes:
    if isinstance(value, str):
        return value.encode()
    if isinstance(value, (bytes, bytearray)):
        return bytes(value)
    if isinstance(value, torch.Tensor):
        buffer = io.BytesIO()
        torch.save(value, buffer)
        return buffer.getvalue()
    return json.dumps(value, indent=2).encode()


def _fail(requests: list[RequestProcessor], code: int, message: str) -> list[Body]:
    """Set the status of each request; return the bodies with the error in Google's format."""
    status = STATUS_NAMES.get(code, "INVALID_ARGUMENT" if code < 500 else "INTERNAL")
    error = {"code": code, "status": status, "message": message}
    for request in requests:
        request.report_status(code)
        request.add_response_property("content-type", "application/json")
    return [json.dumps({"error": error}, separators=(",", ":")).encode()] * len(requests)
