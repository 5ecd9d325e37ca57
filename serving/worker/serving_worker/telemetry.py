"""What a worker reports: totals for metrics, and an event for each batch with a sampled request."""

import json
import logging
import socket
import time
from collections.abc import Mapping, Sequence
from pathlib import Path

from ts.context import RequestProcessor

from .totals import Totals

log = logging.getLogger(__name__)


class TelemetrySender:
    """Adds each batch to the totals, and sends it as a datagram, which never blocks."""

    def __init__(self, totals: Totals | None, connection: socket.socket | None) -> None:
        """Without `totals` nothing is reported, without `connection` no events are sent."""
        self._totals, self._connection = totals, connection
        self.timings: Sequence[int] | None = None
        """The timings of the current batch; None until the handler has reported them."""

    def set_timings(self, timings: Sequence[int]) -> None:
        """Receive the handler's timings: nanoseconds since 1970, and the number of instances."""
        self.timings = timings

    def send_started(self) -> None:
        """Count that the model is loaded."""
        if self._totals is not None:
            self._totals.increment("starts")

    def send_batch(self, requests: list[RequestProcessor], arrived: int) -> None:
        """Report an answered batch; health probes were not sent by nginx and are left out."""
        if self._totals is None:
            return
        ended, record = time.time_ns(), self._totals.record
        sent_times = [
            (headers.get_request_property("X-Request-Id"), sent)
            for headers in requests
            if (sent := headers.get_request_property("X-Sent"))
        ]
        if not sent_times:
            return
        for _, sent in sent_times:
            # nginx's times are rounded to a millisecond, so the difference may be negative.
            record("serving_queue_wait_seconds", max(arrived / 1e9 - float(sent), 0))
        record("serving_batch_requests", len(sent_times))
        record("serving_batch_duration_seconds", (ended - arrived) / 1e9)
        if self.timings is not None:
            preprocessing, inference, postprocessing, _, instances = self.timings
            record("serving_decode_seconds", (inference - preprocessing) / 1e9)
            record("serving_forward_seconds", (postprocessing - inference) / 1e9)
            record("serving_batch_instances", instances)
        if self._connection is not None and any(
            headers.get_request_property("X-Sampled") for headers in requests
        ):
            times = {"arrived": arrived, "ended": ended, "timings": self.timings}
            event = json.dumps({"batch": {"requests": sent_times, **times}})
            try:
                self._connection.send(event.encode(), socket.MSG_DONTWAIT)
            except OSError:
                self._totals.increment("lost_batches")


def create_sender(environ: Mapping[str, str]) -> TelemetrySender:
    """Return a sender for the folder and the UDP port on loopback that the environment names."""
    folder, port = environ.get("TELEMETRY_DIR"), environ.get("TELEMETRY_PORT")
    totals = connection = None
    try:
        totals = Totals(Path(folder)) if folder else None
    except OSError:
        log.exception("no telemetry of this worker")
    if port:
        connection = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
        connection.connect(("127.0.0.1", int(port)))
    return TelemetrySender(totals, connection)
