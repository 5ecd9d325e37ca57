"""A receiver of metrics and traces for the tests; it parses them with OpenTelemetry's own types."""

import contextlib
from collections.abc import Iterator
from typing import Any

from flask import Flask, request
from opentelemetry.proto.collector.metrics.v1.metrics_service_pb2 import ExportMetricsServiceRequest
from opentelemetry.proto.collector.trace.v1.trace_service_pb2 import ExportTraceServiceRequest

from tests.http import serve_app

REQUEST_TYPES: dict[str, Any] = {
    "metrics": ExportMetricsServiceRequest,
    "traces": ExportTraceServiceRequest,
}


class ReceivedTelemetry:
    """The requests that a receiver got."""

    def __init__(self) -> None:
        self.requests: list[Any] = []

    def _collect(self, kind: str) -> list[Any]:
        return [part for request in list(self.requests) for part in getattr(request, kind, [])]

    def spans(self) -> list[Any]:
        scopes = [
            each for resource in self._collect("resource_spans") for each in resource.scope_spans
        ]
        return [span for scope in scopes for span in scope.spans]

    def metrics(self, service: str) -> dict[str, Any]:
        """Return the latest message of each metric of a service, by name."""
        scopes = [
            each for resource in self._resources_of(service) for each in resource.scope_metrics
        ]
        return {metric.name: metric for scope in scopes for metric in scope.metrics}

    def resource(self, service: str) -> dict[str, str]:
        """Return the resource attributes of a service."""
        return _attributes(self._resources_of(service)[-1])

    def _resources_of(self, service: str) -> list[Any]:
        resources = self._collect("resource_metrics")
        return [each for each in resources if _attributes(each)["service.name"] == service]


def _attributes(message: Any) -> dict[str, str]:
    return {each.key: each.value.string_value for each in message.resource.attributes}


@contextlib.contextmanager
def run_receiver(host: str) -> Iterator[tuple[str, ReceivedTelemetry]]:
    """Receive OTLP over HTTP on an address of this machine; yield the URL and the requests."""
    received, app = ReceivedTelemetry(), Flask(__name__)

    @app.post("/v1/<kind>")
    def receive(kind: str) -> str:
        received.requests.append(REQUEST_TYPES[kind].FromString(request.data))
        return ""

    with serve_app(app, host) as address:
        yield f"http://{address}", received
