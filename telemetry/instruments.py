"""Facts -> metrics.

Their names and labels are Prometheus's, units and all: Cloud Monitoring keeps a dot where
Prometheus writes an underscore, and one query is to do for both. docs/monitoring.md lists them.
"""

from collections.abc import Callable, Iterable, Mapping
from typing import NamedTuple

from opentelemetry.metrics import CallbackOptions, Histogram, Meter, Observation

from telemetry.facts import Answered, Batch, Fact, Started

SECONDS = (0.0005, 0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10, 30, 60)
COUNTS = (1, 2, 4, 8, 16, 32, 64, 128, 256, 512, 1024, 4096)
METHODS = ("GET", "HEAD", "POST", "PUT", "DELETE", "CONNECT", "OPTIONS", "TRACE", "PATCH")
"""Known to OpenTelemetry's conventions; whoever makes up another is counted as _OTHER."""


class Looks(NamedTuple):
    """What is looked up whenever metrics are asked for."""

    memory: Callable[[], Mapping[str, int]]
    """Bytes that each kind of process holds."""
    ready: Callable[[], bool]
    """Whether predictions are let in."""
    dropped: Callable[[], int]
    """Datagrams that came when there was no room for them."""


class Instruments:
    """What is measured."""

    def __init__(self, meter: Meter, about: Mapping[str, str], workers: int, looks: Looks) -> None:
        """`about` are the labels of the model; `workers` may start before one is a restart."""
        self._expected = workers
        self._answered = _seconds(
            meter,
            "http_server_request_duration_seconds",
            "From a request's last byte in to its answer's last byte out, at the front door",
        )
        self._waited = _seconds(
            meter, "serving_queue_wait_seconds", "From the front door to a worker"
        )
        self._decoded = _seconds(
            meter, "serving_decode_seconds", "Bodies parsed and instances decoded, a batch"
        )
        self._passed = _seconds(meter, "serving_forward_seconds", "The model's pass, a batch")
        self._handled = _seconds(
            meter, "serving_batch_duration_seconds", "All that a worker did for a batch"
        )
        self._requests = _counts(meter, "batch_requests", "Requests in a batch")
        self._instances = _counts(meter, "batch_instances", "Instances in a batch")
        self._total = meter.create_counter(
            "serving_instances_total", description="Instances that went through the model"
        )
        self._restarts = meter.create_counter(
            "serving_worker_restarts_total", description="Workers that took another's place"
        )
        self._restarts.add(0)
        self._lost = meter.create_counter(
            "serving_telemetry_lost_total", description="Batches that a worker could not tell of"
        )
        self._lost.add(0)
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
                self._answered.record((fact.ended - fact.began) / 1e9, labels)
            case Batch():
                self._take_batch(fact)
            case Started():
                self._expected -= 1
                if self._expected < 0:
                    self._restarts.add(1)

    def _take_batch(self, batch: Batch) -> None:
        for sent in batch.requests.values():
            # The front door's clock is of the same machine, and a millisecond coarse.
            self._waited.record(max(batch.arrived - sent, 0) / 1e9)
        self._requests.record(len(batch.requests))
        self._handled.record((batch.ended - batch.arrived) / 1e9)
        if batch.lost:
            self._lost.add(batch.lost)
        if (stages := batch.stages) is not None:
            self._decoded.record((stages.decoded - stages.began) / 1e9)
            self._passed.record((stages.passed - stages.decoded) / 1e9)
            self._instances.record(stages.instances)
            self._total.add(stages.instances)


def _seconds(meter: Meter, name: str, description: str) -> Histogram:
    return meter.create_histogram(
        name, "s", description, explicit_bucket_boundaries_advisory=SECONDS
    )


def _counts(meter: Meter, name: str, description: str) -> Histogram:
    return meter.create_histogram(
        f"serving_{name}", "", description, explicit_bucket_boundaries_advisory=COUNTS
    )
