"""Events for traces: nginx sends a datagram for each sampled request, a worker for its batch.

An event has a request's ID, times and sizes, and never its content. Times are nanoseconds since
1970; those from nginx are exact to a millisecond.
"""

import json
import re
from collections.abc import Callable, Mapping
from typing import Any, NamedTuple

from serving.telemetry.errors import EventError


class RequestAnswered(NamedTuple):
    """nginx sent a response."""

    request: str
    """The request's ID: 32 hexadecimal digits."""
    method: str
    path: str
    status: int
    start_ns: int
    end_ns: int
    trace_headers: Mapping[str, str]
    """The request's headers `traceparent` and `x-cloud-trace-context`, if present."""


class Timings(NamedTuple):
    """When the steps of a batch began; the handler sends the same fields."""

    preprocessing_start_ns: int
    inference_start_ns: int
    postprocessing_start_ns: int
    end_ns: int
    instances: int


class BatchAnswered(NamedTuple):
    """A worker answered a batch of requests."""

    requests: Mapping[str, int]
    """The time at which nginx forwarded each request, by ID."""
    received_ns: int
    """When the worker received the batch."""
    end_ns: int
    timings: Timings | None
    """None if the handler reports no timings."""


Event = RequestAnswered | BatchAnswered
REQUEST_ID = re.compile("[0-9a-f]{32}")


def parse_event(datagram: bytes) -> Event:
    """Parse a datagram; raise EventError.

    nginx's datagrams begin with a syslog header (RFC 3164).
    """
    try:
        document = json.loads(datagram[datagram.index(b"{") :].decode(errors="replace"))
        kind, fields = document.popitem()
        return _PARSERS[kind](fields)
    except (ValueError, KeyError, TypeError, AttributeError, IndexError, RecursionError) as error:
        raise EventError(
            f"invalid event: {type(error).__name__} in a datagram of {len(datagram)} bytes"
        ) from None


def _parse_request(fields: dict[str, Any]) -> RequestAnswered:
    ended, status = _nanoseconds(fields["ended"]), int(fields["status"])
    if not 100 <= status <= 599 or not REQUEST_ID.fullmatch(fields["request"]):
        raise ValueError
    trace_headers = {name: fields[name] for name in ("traceparent", "x-cloud-trace-context")}
    return RequestAnswered(
        fields["request"],
        fields["method"],
        fields["path"],
        status,
        ended - _nanoseconds(fields["took"]),
        ended,
        {name: value for name, value in trace_headers.items() if value},
    )


def _parse_batch(fields: dict[str, Any]) -> BatchAnswered:
    requests = {request: _nanoseconds(sent) for request, sent in fields["requests"]}
    timings = fields["timings"] and Timings(*fields["timings"])
    return BatchAnswered(requests, fields["arrived"], fields["ended"], timings)


def _nanoseconds(seconds: str) -> int:
    """Convert nginx's seconds, which have three decimals."""
    whole, _, thousandths = seconds.partition(".")
    return (int(whole) * 1000 + int(thousandths)) * 1_000_000


_PARSERS: dict[str, Callable[[dict[str, Any]], Event]] = {
    "answered": _parse_request,
    "batch": _parse_batch,
}
