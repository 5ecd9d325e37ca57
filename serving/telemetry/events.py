"""What the front door and the workers tell, a datagram each.

Of a request its id, its times and its sizes; never what is in it.
"""

import json
import re
from collections.abc import Callable, Mapping
from typing import Any, NamedTuple


class Answered(NamedTuple):
    """The front door has answered a request."""

    request: str
    """Its id: 32 hexadecimal digits."""
    method: str
    path: str
    status: int
    began: int
    """Nanoseconds since 1970, here and below; nginx tells whole milliseconds."""
    ended: int
    caller: Mapping[str, str]
    """The headers in which a caller tells of a trace that it began; those that came."""


class Stages(NamedTuple):
    """As handler/batch.py tells them."""

    began: int
    decoded: int
    passed: int
    ended: int
    instances: int


class Batch(NamedTuple):
    """A worker has answered a batch of requests."""

    requests: Mapping[str, int]
    """Their ids, and when the front door passed each of them on."""
    arrived: int
    """When the worker began with them."""
    ended: int
    stages: Stages | None
    """None with a handler that does not tell."""
    lost: int
    """Batches before it that could not be told of."""


class Started(NamedTuple):
    """A worker has loaded the model."""

    process: int


REQUEST = re.compile("[0-9a-f]{32}")
Fact = Answered | Batch | Started


class EventError(Exception):
    """A datagram is not what nginx or a worker sends."""


def read(datagram: bytes) -> Fact:
    """Take in a datagram; raise Unreadable.

    nginx's begin as syslog's do (RFC 3164), with a priority, a time and a name.
    """
    try:
        said = json.loads(datagram[datagram.index(b"{") :].decode(errors="replace"))
        kind, about = said.popitem()
        return _KINDS[kind](about)
    except (ValueError, KeyError, TypeError, AttributeError, IndexError, RecursionError) as error:
        raise EventError(f"{type(error).__name__} in a datagram of {len(datagram)} bytes") from None


def _answered(said: dict[str, Any]) -> Answered:
    ended, status = _nanoseconds(said["ended"]), int(said["status"])
    if not 100 <= status <= 599 or not REQUEST.fullmatch(said["request"]):
        raise ValueError
    callers = {name: said[name] for name in ("traceparent", "x-cloud-trace-context")}
    return Answered(
        said["request"],
        said["method"],
        said["path"],
        status,
        ended - _nanoseconds(said["took"]),
        ended,
        {name: value for name, value in callers.items() if value},
    )


def _batch(said: dict[str, Any]) -> Batch:
    requests = {one: _nanoseconds(sent) for one, sent in said["requests"]}
    stages = said["stages"] and Stages(*said["stages"])
    return Batch(requests, said["arrived"], said["ended"], stages, said["lost"])


def _nanoseconds(seconds: str) -> int:
    """Read nginx's seconds, which have three digits after the point."""
    whole, _, thousandths = seconds.partition(".")
    return (int(whole) * 1000 + int(thousandths)) * 1_000_000


_KINDS: dict[str, Callable[[dict[str, Any]], Fact]] = {
    "answered": _answered,
    "batch": _batch,
    "started": lambda said: Started(int(said["process"])),
}
