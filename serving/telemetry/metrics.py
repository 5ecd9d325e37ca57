"""Facts -> metrics.

Their names and labels are Prometheus's, units and all: Cloud Monitoring keeps a dot where
Prometheus writes an underscore, and one query is to do for both. docs/monitoring.md lists them.
"""

from collections.abc import Callable, Iterable, Mapping
from typing import NamedTuple

from opentelemetry.metrics import CallbackOptions, Meter, Observation

from serving.telemetry.events import Answered, Batch, Fact, Started

SECONDS = (0.0005, 0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10, 30, 60)
COUNTS = (1, 2, 4, 8, 16, 32, 64, 128, 256, 512, 1024, 4096)
METHODS = ("GET", "HEAD", "POST", "PUT", "DELETE", "CONNECT", "OPTIONS", "TRACE", "PATCH")
"""Known to OpenTelemetry's conventions; whoever makes up another is counted as _OTHER."""


HISTOGRAMS = {
    "http_server_request_duration_seconds": (
        SECONDS,
        "From a request's last byte in to its answer's last byte out, at the front door",
    ),
    "serving_queue_wait_seconds": (SECONDS, "From the front door to a worker"),
    "serving_decode_seconds": (SECONDS, "Bodies parsed and instances decoded, a batch"),
    "serving_forward_seconds": (SECONDS, "The model's pass, a batch"),
    "serving_batch_duration_seconds": (SECONDS, "All that a worker did for a batch"),
    "serving_batch_requests": (COUNTS, "Requests in a batch"),
    "serving_batch_instances": (COUNTS, "Instances in a batch"),
}
"""Their bounds and descriptions by their names."""
COUNTERS = {
    "serving_instances_total": "Instances that went through the model",
    "serving_worker_restarts_total": "Workers that took another's place",
    "serving_telemetry_lost_total": "Batches that a worker could not tell of",
}
"""Their descriptions by their names."""


class Gauges(NamedTuple):
    """What is looked up whenever metrics are asked for."""

    memory: Callable[[], Mapping[str, int]]
    """Bytes that each kind of process holds."""
    ready: Callable[[], bool]
    """Whether predictions are let in."""
    dropped: Callable[[], int]
    """Datagrams that came when there was no room for them."""


class Instruments:
    """What is measured."""

    def __init__(self, meter: Meter, about: Mapping[str, str], workers: int, looks: Gauges) -> None:
        """`about` are the labels of the model; `workers` may start before one is a restart."""
        self._expected = workers
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
        for rare in ("serving_worker_restarts_total", "serving_telemetry_lost_total"):
            self._counters[rare].add(0)  # so that they are there before the first
        meter.create_observable_counter(
            "serving_telemetry_dropped_total",
            [lambda _: [Observation(looks.dropped())]],
            description="Datagrams that there was no room for",
        )
        meter.create_observable_gauge(
            "serving_ready",
            [lambda _: [Observation(int(looks.ready()))]],
            description="Whether predictions are let in",
        )
        meter.create_observable_gauge(
            "serving_model_info",
            [lambda _: [Observation(1, dict(about))]],
            description="What is served",
        )

        def memory(_options: CallbackOptions) -> Iterable[Observation]:
            for process, held in looks.memory().items():
                yield Observation(held, {"process": process})

        meter.create_observable_gauge(
            "serving_process_memory_bytes",
            [memory],
            "By",
            "Held by processes, what they share once",
        )

    def take(self, fact: Fact) -> None:
        """Take in a fact."""
        match fact:
            case Answered():
                method = fact.method if fact.method in METHODS else "_OTHER"
                labels: dict[str, str | int] = {
                    "http_response_status_code": fact.status,
                    "http_request_method": method,
                }
                seconds = (fact.ended - fact.began) / 1e9
                self._histograms["http_server_request_duration_seconds"].record(seconds, labels)
            case Batch():
                self._take_batch(fact)
            case Started():
                self._expected -= 1
                if self._expected < 0:
                    self._counters["serving_worker_restarts_total"].add(1)

    def _take_batch(self, batch: Batch) -> None:
        for sent in batch.requests.values():
            # The front door's clock is of the same machine, and a millisecond coarse.
            self._record("queue_wait_seconds", max(batch.arrived - sent, 0) / 1e9)
        self._record("batch_requests", len(batch.requests))
        self._record("batch_duration_seconds", (batch.ended - batch.arrived) / 1e9)
        self._counters["serving_telemetry_lost_total"].add(batch.lost)
        if (stages := batch.stages) is not None:
            self._record("decode_seconds", (stages.decoded - stages.began) / 1e9)
            self._record("forward_seconds", (stages.passed - stages.decoded) / 1e9)
            self._record("batch_instances", stages.instances)
            self._counters["serving_instances_total"].add(stages.instances)

    def _record(self, name: str, value: float) -> None:
        self._histograms[f"serving_{name}"].record(value)
