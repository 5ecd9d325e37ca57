"""Cloud Monitoring's time series of the predictions that were answered here."""

import math
import re
import time

from google.cloud import monitoring_v3 as m3

from emulator.errors import invalid_argument, unimplemented
from emulator.prediction import PredictionRecord
from emulator.state import State

ONLINE = "aiplatform.googleapis.com/prediction/online/"
COUNT, LATENCIES = f"{ONLINE}response_count", f"{ONLINE}prediction_latencies"
Aligner = m3.Aggregation.Aligner


def list_series(state: State, request: m3.ListTimeSeriesRequest) -> m3.ListTimeSeriesResponse:
    """Return one point a series for the whole interval, of response_count or prediction_latencies."""
    wanted = dict(re.findall(r'([\w.]+)\s*=\s*"([^"]*)"', request.filter))
    metric = wanted.get("metric.type", "")
    begin, end = request.interval.start_time.timestamp(), request.interval.end_time.timestamp()
    if end <= begin:
        raise invalid_argument("interval.startTime must be before interval.endTime")
    rows = [
        row
        for row in state.predictions
        if begin <= row.at <= min(end, time.time())
        and wanted.get("resource.labels.endpoint_id", row.endpoint) == row.endpoint
        and wanted.get("metric.labels.deployed_model_id", row.deployed) == row.deployed
    ]
    groups: dict[tuple[str, ...], list[PredictionRecord]] = {}
    for row in rows:
        code = [str(row.code)] if metric == COUNT else []
        groups.setdefault((row.endpoint, row.deployed, *code), []).append(row)
    return m3.ListTimeSeriesResponse(
        time_series=[_series(metric, request, key, rows) for key, rows in groups.items()]
    )


def _series(
    metric: str,
    request: m3.ListTimeSeriesRequest,
    key: tuple[str, ...],
    rows: list[PredictionRecord],
) -> m3.TimeSeries:
    labels = dict(zip(("deployed_model_id", "response_code"), key[1:], strict=False))
    aligner = request.aggregation.per_series_aligner
    if metric == COUNT and aligner == Aligner.ALIGN_DELTA:
        value = m3.TypedValue(int64_value=len(rows))
    elif metric == LATENCIES and "PERCENTILE" in aligner.name:
        ms = [row.ms for row in rows]
        value = m3.TypedValue(double_value=percentile(ms, int(aligner.name.rsplit("_", 1)[1])))
    else:
        raise unimplemented(f"the rehearsal does not keep {metric or 'that'} with {aligner.name}")
    return m3.TimeSeries(
        metric={"type": metric, "labels": labels},
        resource={"type": "aiplatform.googleapis.com/Endpoint", "labels": {"endpoint_id": key[0]}},
        points=[m3.Point(interval=request.interval, value=value)],
    )


def percentile(values: list[float], percent: int) -> float:
    """Return the smallest value that `percent` of the values do not exceed."""
    return sorted(values)[max(math.ceil(len(values) * percent / 100) - 1, 0)]


METHODS = {"ListTimeSeries": list_series}
