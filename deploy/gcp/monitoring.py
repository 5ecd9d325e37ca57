"""Cloud Monitoring: metrics of the endpoint."""

import functools
import time
from typing import Any, NamedTuple

from deploy.gcp.client import Client

METRIC_PREFIX = "aiplatform.googleapis.com/prediction/online/"


class Point(NamedTuple):
    """A value of a time series."""

    labels: dict[str, str]
    value: float


class Monitoring:
    """A client for time series."""

    def __init__(self, client: Client) -> None:
        self._client = client

    def read_metric(self, metric: str, aligner: str, minutes: float) -> list[Point]:
        """Return the points of an online prediction metric of the endpoint over the last minutes."""
        settings = self._client.settings
        format_time = functools.partial(time.strftime, "%Y-%m-%dT%H:%M:%SZ")
        endpoint_id = settings.endpoint.rpartition("/")[2]
        query: dict[str, Any] = {
            "filter": f'metric.type="{METRIC_PREFIX}{metric}" AND resource.labels.endpoint_id="{endpoint_id}"',
            "interval.startTime": format_time(time.gmtime(time.time() - minutes * 60)),
            "interval.endTime": format_time(time.gmtime(time.time() + 1)),
            "aggregation.alignmentPeriod": f"{max(round(minutes * 60), 60)}s",
            "aggregation.perSeriesAligner": aligner,
        }
        url = f"{self._client.url('monitoring', 'v3')}/projects/{settings.project}/timeSeries"
        return [
            Point(series["metric"].get("labels", {}), float(next(iter(point["value"].values()))))
            for series in self._client.list_all(url, "timeSeries", **query)
            for point in series["points"]
        ]
