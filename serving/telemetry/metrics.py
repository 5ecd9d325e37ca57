"""Converts events to metrics.

Names and labels follow Prometheus, with the unit as a suffix: Cloud Monitoring keeps dots that
Prometheus turns into underscores, so only names without dots work in the queries of both.
docs/monitoring.md lists the metrics.
"""

from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass

from opentelemetry.metrics import CallbackOptions, Meter, Observation

from serving.telemetry.events import BatchAnswered, Event, RequestAnswered, WorkerStarted

SECONDS = (0.0005, 0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10, 30, 60)
COUNTS = (1, 2, 4, 8, 16, 32, 64, 128, 256, 512, 1024, 4096)
METHODS = ("GET", "HEAD", "POST", "PUT", "DELETE", "CONNECT", "OPTIONS", "TRACE", "PATCH")
"""The methods of OpenTelemetry's conventions; any other is recorded as _OTHER."""
HISTOGRAMS = {
    "http_server_request_duration_seconds": (
        SECONDS,
        "From a request's first byte to the last byte of its response, measured by nginx",
    ),
    "serving_queue_wait_seconds": (SECONDS, "From nginx to a worker, per request"),
    "serving_decode_seconds": (SECONDS, "Parsing, decoding and preprocessing of a batch"),
    "serving_forward_seconds": (SECONDS, "The model's forward pass of a batch"),
    "serving_batch_duration_seconds": (SECONDS, "A worker's time for a batch"),
    "serving_batch_requests": (COUNTS, "Requests in a batch"),
    "serving_batch_instances": (COUNTS, "Instances in a batch"),
}
"""Bucket boundaries and description by name."""
COUNTERS = {
    "serving_instances_total": "Instances for which the model ran",
    "serving_worker_restarts_total": "Workers that replaced another one",
    "serving_telemetry_lost_total": "Batches whose event a worker could not send",
}
"""Description by name."""


@dataclass(frozen=True, kw_only=True)
class Gauges:
    """Values that are read at each export."""

    memory_bytes: Callable[[], Mapping[str, int]]
    """The memory of each kind of process."""
    is_ready: Callable[[], bool]
    """Whether predictions are accepted."""
    dropped_datagrams: Callable[[], int]
    """Events that Linux dropped because the buffer was full."""


class Instruments:
    """OpenTelemetry's instruments for the metrics."""

    def __init__(
        self, meter: Meter, model: Mapping[str, str], workers: int, gauges: Gauges
    ) -> None:
        """`model` is the model's labels; the first `workers` starts are not counted as restarts."""
        self._workers_to_start = workers
        self._histograms = {
            name: meter.create_histogram(
                name,
                "s" if bounds is SECONDS else "",
                description,
                explicit_bucket_boundaries_advisory=bounds,
            )
            for name, (bounds, description) in HISTOGRAMS.items()
        }
        self._counters = {
            name: meter.create_counter(name, description=description)
            for name, description in COUNTERS.items()
        }
        for name in ("serving_worker_restarts_total", "serving_telemetry_lost_total"):
            self._counters[name].add(0)  # exports a 0 before the first event
        meter.create_observable_counter(
            "serving_telemetry_dropped_total",
            [lambda _: [Observation(gauges.dropped_datagrams())]],
            description="Events that were dropped because the buffer was full",
        )
        meter.create_observable_gauge(
            "serving_ready",
            [lambda _: [Observation(int(gauges.is_ready()))]],
            description="Whether predictions are accepted",
        )
        meter.create_observable_gauge(
            "serving_model_info",
            [lambda _: [Observation(1, dict(model))]],
            description="The model that is served",
        )

        def observe_memory(_options: CallbackOptions) -> Iterable[Observation]:
            for process, size in gauges.memory_bytes().items():
                yield Observation(size, {"process": process})

        meter.create_observable_gauge(
            "serving_process_memory_bytes",
            [observe_memory],
            "By",
            "Memory by kind of process; shared memory is divided among its processes",
        )

    def record(self, event: Event) -> None:
        """Add an event to the metrics."""
        match event:
            case RequestAnswered():
                method = event.method if event.method in METHODS else "_OTHER"
                labels: dict[str, str | int] = {
                    "http_response_status_code": event.status,
                    "http_request_method": method,
                }
                seconds = (event.end_ns - event.start_ns) / 1e9
                self._histograms["http_server_request_duration_seconds"].record(seconds, labels)
            case BatchAnswered():
                self._record_batch(event)
            case WorkerStarted():
                self._workers_to_start -= 1
                if self._workers_to_start < 0:
                    self._counters["serving_worker_restarts_total"].add(1)

    def _record_batch(self, batch: BatchAnswered) -> None:
        for sent in batch.requests.values():
            # nginx's times are rounded to a millisecond, so the difference may be negative.
            self._record("queue_wait_seconds", max(batch.received_ns - sent, 0) / 1e9)
        self._record("batch_requests", len(batch.requests))
        self._record("batch_duration_seconds", (batch.end_ns - batch.received_ns) / 1e9)
        self._counters["serving_telemetry_lost_total"].add(batch.lost_batches)
        if (timings := batch.timings) is not None:
            self._record(
                "decode_seconds",
                (timings.inference_start_ns - timings.preprocessing_start_ns) / 1e9,
            )
            self._record(
                "forward_seconds",
                (timings.postprocessing_start_ns - timings.inference_start_ns) / 1e9,
            )
            self._record("batch_instances", timings.instances)
            self._counters["serving_instances_total"].add(timings.instances)

    def _record(self, name: str, value: float) -> None:
        self._histograms[f"serving_{name}"].record(value)
