"""A receiver of metrics and traces for the tests; it takes what OpenTelemetry's own types hold."""

import contextlib
import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

from opentelemetry.proto.collector.metrics.v1.metrics_service_pb2 import ExportMetricsServiceRequest
from opentelemetry.proto.collector.trace.v1.trace_service_pb2 import ExportTraceServiceRequest

TYPES: dict[str, Any] = {
    "/v1/metrics": ExportMetricsServiceRequest,
    "/v1/traces": ExportTraceServiceRequest,
}


class Received:
    """What came."""

    def __init__(self) -> None:
        self.requests: list[Any] = []

    def _all(self, kind: str) -> list[Any]:
        return [part for one in self.requests for part in getattr(one, kind, [])]

    def spans(self) -> list[Any]:
        return [
            span
            for resource in self._all("resource_spans")
            for scope in resource.scope_spans
            for span in scope.spans
        ]

    def metrics(self, service: str) -> dict[str, Any]:
        """Return the last of each metric that a service sent, by its name."""
        return {
            metric.name: metric
            for sent in self._of(service)
            for scope in sent.scope_metrics
            for metric in scope.metrics
        }

    def resource(self, service: str) -> dict[str, str]:
        """Return what a service said of itself."""
        return _attributes(self._of(service)[-1])

    def _of(self, service: str) -> list[Any]:
        sent = self._all("resource_metrics")
        return [each for each in sent if _attributes(each)["service.name"] == service]


def _attributes(sent: Any) -> dict[str, str]:
    return {each.key: each.value.string_value for each in sent.resource.attributes}


@contextlib.contextmanager
def receiver(host: str) -> Iterator[tuple[str, Received]]:
    """Listen at an address of this machine; give the URL and what comes."""
    received = Received()

    class Handler(BaseHTTPRequestHandler):
        timeout = 30

        def do_POST(self) -> None:
            request = TYPES[self.path]()
            request.ParseFromString(self.rfile.read(int(self.headers["Content-Length"])))
            received.requests.append(request)
            self.send_response(200)
            self.send_header("Content-Length", "0")
            self.end_headers()

        def log_message(self, *_: object) -> None:
            """Say nothing."""

    with ThreadingHTTPServer((host, 0), Handler) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        try:
            yield f"http://{host}:{server.server_port}", received
        finally:
            server.shutdown()
