"""Events of the worker for the telemetry process."""

import json
import os
import socket
import time
from collections.abc import Sequence
from typing import Any

from ts.context import RequestProcessor


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
