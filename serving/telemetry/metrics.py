"""The metrics: totals of nginx and the workers, and gauges. All are read at each export.

Names and labels follow Prometheus, with the unit as a suffix: Cloud Monitoring keeps dots that
Prometheus turns into underscores, so only names without dots work in the queries of both.
docs/monitoring.md lists the metrics.
"""

import contextlib
import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from opentelemetry.metrics import CallbackOptions, Meter, Observation
from opentelemetry.sdk.metrics.export import (
    AggregationTemporality,
    Histogram,
    HistogramDataPoint,
    Metric,
    NumberDataPoint,
    Sum,
)

from serving.worker.serving_worker.totals import HISTOGRAMS, SECONDS, sum_totals

REQUESTS_FILE = "requests.txt"
"""The file in the run folder to which docker/requests.lua writes nginx's totals."""
REQUESTS = "http_server_request_duration_seconds"
DESCRIPTIONS = {
    REQUESTS: "From a request's first byte to the last byte of its response, measured by nginx",
    "serving_queue_wait_seconds": "From nginx to a worker, per request",
    "serving_decode_seconds": "Parsing, decoding and preprocessing of a batch",
    "serving_forward_seconds": "The model's forward pass of a batch",
    "serving_batch_duration_seconds": "A worker's time for a batch",
    "serving_batch_requests": "Requests in a batch",
    "serving_batch_instances": "Instances in a batch",
    "serving_instances_total": "Instances for which the model ran",
    "serving_worker_restarts_total": "Workers that replaced another one",
    "serving_telemetry_lost_total": "Batches whose event a worker could not send",
    "serving_telemetry_dropped_total": "Events that were dropped because the buffer was full",
}
Series = tuple[dict[str, int | str], list[float]]
"""Labels, and the numbers of a histogram: a count per bucket, one above them, and the sum."""


@dataclass(frozen=True, kw_only=True)
class TotalsReader:
    """Reads the totals since the container's start."""

    run: Path
    """The folder of the totals' files."""
    workers: int
    """Starts of this many workers are not counted as restarts."""
    since_ns: int
    """The container's start, in nanoseconds since 1970."""
    dropped_datagrams: Callable[[], int]
    """Returns the number of events that Linux dropped because the buffer was full."""

    def read(self) -> list[Metric]:
        """Return all counters and histograms."""
        totals = sum_totals(self.run)
        counters = {
            "serving_instances_total": totals["serving_batch_instances"][-1],
            "serving_worker_restarts_total": max(totals["starts"][0] - self.workers, 0),
            "serving_telemetry_lost_total": totals["lost_batches"][0],
            "serving_telemetry_dropped_total": self.dropped_datagrams(),
        }
        return [
            *(self._build_counter(name, int(value)) for name, value in counters.items()),
            *(
                self._build_histogram(name, bounds, [({}, totals[name])])
                for name, bounds in HISTOGRAMS.items()
            ),
            self._build_histogram(REQUESTS, SECONDS, self._read_requests()),
        ]

    def _read_requests(self) -> list[Series]:
        """Return nginx's totals by method and status."""
        series: list[Series] = []
        with contextlib.suppress(FileNotFoundError):  # no request yet
            for line in (self.run / REQUESTS_FILE).read_text().splitlines():
                method, status, *numbers = line.split()
                series.append(
                    (
                        {"http_response_status_code": int(status), "http_request_method": method},
                        [float(number) for number in numbers],
                    )
                )
        return series

    def _build_counter(self, name: str, value: int) -> Metric:
        point = NumberDataPoint({}, self.since_ns, time.time_ns(), value)
        return Metric(
            name, DESCRIPTIONS[name], "", Sum([point], AggregationTemporality.CUMULATIVE, True)
        )

    def _build_histogram(self, name: str, bounds: Sequence[float], series: list[Series]) -> Metric:
        points = [
            HistogramDataPoint(
                attributes=labels,
                start_time_unix_nano=self.since_ns,
                time_unix_nano=time.time_ns(),
                count=int(sum(counts)),
                sum=total,
                bucket_counts=[int(count) for count in counts],
                explicit_bounds=bounds,
                min=None,  # type: ignore[arg-type]  # optional in OTLP
                max=None,  # type: ignore[arg-type]
            )
            for labels, (*counts, total) in series
        ]
        unit = "s" if bounds is SECONDS else ""
        return Metric(
            name, DESCRIPTIONS[name], unit, Histogram(points, AggregationTemporality.CUMULATIVE)
        )


def create_gauges(
    meter: Meter,
    model: Mapping[str, str],
    is_ready: Callable[[], bool],
    memory_bytes: Callable[[], Mapping[str, int]],
) -> None:
    """Create the gauges; `model` is the model's labels, `memory_bytes` is by kind of process."""

    def observe_memory(_options: CallbackOptions) -> Iterable[Observation]:
        for process, size in memory_bytes().items():
            yield Observation(size, {"process": process})

    meter.create_observable_gauge(
        "serving_ready",
        [lambda _: [Observation(int(is_ready()))]],
        description="Whether predictions are accepted",
    )
    meter.create_observable_gauge(
        "serving_model_info",
        [lambda _: [Observation(1, dict(model))]],
        description="The model that is served",
    )
    meter.create_observable_gauge(
        "serving_process_memory_bytes",
        [observe_memory],
        "By",
        "Memory by kind of process; shared memory is divided among its processes",
    )
