"""Cloud Monitoring: time series of the predictions that the emulator answered."""

import math
import re
import time

from google.cloud import monitoring_v3 as m3

from emulator.errors import invalid_argument, unimplemented
from emulator.resources import Method
from emulator.state import PredictionRecord, State

ONLINE = "aiplatform.googleapis.com/prediction/online/"
COUNT, LATENCIES = f"{ONLINE}response_count", f"{ONLINE}prediction_latencies"
Aligner = m3.Aggregation.Aligner


def list_series(state: State, request: m3.ListTimeSeriesRequest) -> m3.ListTimeSeriesResponse:
    """Return response_count or prediction_latencies, with one point per series for the interval."""
    labels = dict(re.findall(r'([\w.]+)\s*=\s*"([^"]*)"', request.filter))
    metric = labels.get("metric.type", "")
    start, end = request.interval.start_time.timestamp(), request.interval.end_time.timestamp()
    if end <= start:
        raise invalid_argument("interval.startTime must be before interval.endTime")
    records = [
        record
        for record in state.predictions
        if start <= record.time_s <= min(end, time.time())
        and labels.get("resource.labels.endpoint_id", record.endpoint_id) == record.endpoint_id
        and labels.get("metric.labels.deployed_model_id", record.deployed_model_id)
        == record.deployed_model_id
    ]
    groups: dict[tuple[str, ...], list[PredictionRecord]] = {}
    for record in records:
        code = [str(record.status_code)] if metric == COUNT else []
        key = (record.endpoint_id, record.deployed_model_id, *code)
        groups.setdefault(key, []).append(record)
    series = [_series(metric, request, key, group) for key, group in groups.items()]
    return m3.ListTimeSeriesResponse(time_series=series)


def percentile(values: list[float], percent: int) -> float:
    """Return the smallest of the values that at least `percent` of them do not exceed."""
    return sorted(values)[max(math.ceil(len(values) * percent / 100) - 1, 0)]


def _series(
    metric: str,
    request: m3.ListTimeSeriesRequest,
    key: tuple[str, ...],
    records: list[PredictionRecord],
) -> m3.TimeSeries:
    labels = dict(zip(("deployed_model_id", "response_code"), key[1:], strict=False))
    aligner = request.aggregation.per_series_aligner
    if metric == COUNT and aligner == Aligner.ALIGN_DELTA:
        value = m3.TypedValue(int64_value=len(records))
    elif metric == LATENCIES and "PERCENTILE" in aligner.name:
        latencies_ms = [record.latency_ms for record in records]
        percent = int(aligner.name.rsplit("_", 1)[1])
        value = m3.TypedValue(double_value=percentile(latencies_ms, percent))
    else:
        raise unimplemented(
            f"the emulator does not support the metric {metric!r} with the aligner {aligner.name}"
        )
    return m3.TimeSeries(
        metric={"type": metric, "labels": labels},
        resource={"type": "aiplatform.googleapis.com/Endpoint", "labels": {"endpoint_id": key[0]}},
        points=[m3.Point(interval=request.interval, value=value)],
    )


METHODS: dict[str, Method] = {"ListTimeSeries": list_series}
