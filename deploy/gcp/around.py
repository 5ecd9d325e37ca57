"""What surrounds an endpoint: who may do what, and what Cloud Monitoring has seen."""

import functools
import time

from google.api_core import exceptions
from google.cloud import resourcemanager_v3

from deploy.error_messages import to_user_error
from deploy.gcp.client import Wire, said

ONLINE = "aiplatform.googleapis.com/prediction/online/"


class Around(Wire):
    """What the Resource Manager and Cloud Monitoring are asked."""

    def lacking(self, permissions: tuple[str, ...]) -> list[str]:
        """Return which permissions the caller does not have in the project."""
        request = {
            "resource": f"projects/{self.settings.project}",
            "permissions": list(permissions),
        }
        client = self._client(resourcemanager_v3.ProjectsClient)
        answer = self._read(client.test_iam_permissions, request=request)
        return [each for each in permissions if each not in answer.permissions]

    def series(
        self, metric: str, aligner: str, minutes: float
    ) -> list[tuple[dict[str, str], float]]:
        """Return (labels, value) of a Cloud Monitoring metric of this endpoint over the last minutes."""
        stamp = functools.partial(time.strftime, "%Y-%m-%dT%H:%M:%SZ")
        identity = self.settings.endpoint.rsplit("/", 1)[-1]
        query = {
            "filter": f'metric.type="{ONLINE}{metric}" AND resource.labels.endpoint_id="{identity}"',
            "interval.startTime": stamp(time.gmtime(time.time() - minutes * 60)),
            "interval.endTime": stamp(time.gmtime(time.time() + 1)),
            "aggregation.alignmentPeriod": f"{max(round(minutes * 60), 60)}s",
            "aggregation.perSeriesAligner": aligner,
        }
        base = self.settings.api_endpoint or "https://monitoring.googleapis.com"
        url = f"{base}/v3/projects/{self.settings.project}/timeSeries"
        reply = self._read(self._session.get, url, params=query)
        if reply.status_code != 200:
            error = exceptions.from_http_response(reply)
            raise to_user_error(said(error, "reading Cloud Monitoring"), self.settings)
        return [
            (each["metric"].get("labels", {}), float(next(iter(point["value"].values()))))
            for each in reply.json().get("timeSeries", ())
            for point in each["points"]
        ]
