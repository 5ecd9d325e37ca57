"""The exporters: Prometheus's text on a socket, and OTLP over HTTP.

The variables are OpenTelemetry's own (https://opentelemetry.io/docs/specs/otel/configuration/sdk-environment-variables),
read by its SDK. Google's endpoint authenticates the container's service account.
"""

import logging
import os
import socketserver
import threading
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import google.auth
import google.auth.exceptions
import requests
from google.auth.transport.requests import AuthorizedSession
from opentelemetry.exporter.otlp.proto.http.metric_exporter import OTLPMetricExporter
from opentelemetry.exporter.otlp.proto.http.trace_exporter import OTLPSpanExporter
from opentelemetry.exporter.prometheus import PrometheusMetricReader
from opentelemetry.sdk.metrics import MeterProvider
from opentelemetry.sdk.metrics.export import (
    Metric,
    MetricReader,
    MetricsData,
    PeriodicExportingMetricReader,
)
from opentelemetry.sdk.resources import OTELResourceDetector, Resource
from opentelemetry.sdk.trace import TracerProvider
from opentelemetry.sdk.trace.export import BatchSpanProcessor
from prometheus_client import CollectorRegistry
from prometheus_client.exposition import MetricsHandler

from serving.telemetry.errors import ExportError
from serving.telemetry.tracing import RequestIdGenerator

logger = logging.getLogger(__name__)
ENDPOINT = "OTEL_EXPORTER_OTLP_ENDPOINT"
GOOGLE_HOST = "telemetry.googleapis.com"
SCOPE = "https://www.googleapis.com/auth/cloud-platform"


def build_resource(model: dict[str, str]) -> Resource:
    """Describe the source of metrics and traces by the model's labels.

    OpenTelemetry's own variables override them.
    """
    attributes = {
        "service.name": model["model"],
        "service.version": model["version"],
        "service.instance.id": os.uname().nodename,
    }
    project = os.environ.get("GOOGLE_CLOUD_PROJECT") or os.environ.get("AIP_PROJECT_NUMBER")
    if project:
        attributes["gcp.project_id"] = project
    labels = model.keys() - {"model", "version"}
    vertex = {f"vertex.{name}": model[name] for name in labels}
    return Resource.create(attributes | vertex).merge(OTELResourceDetector().detect())


def build_session() -> requests.Session | None:
    """Return an authorized session for Google's endpoint, None for any other; raise ExportError."""
    if urlsplit(os.environ[ENDPOINT]).hostname != GOOGLE_HOST:
        return None
    try:
        credentials, _ = google.auth.default(scopes=[SCOPE])
    except google.auth.exceptions.DefaultCredentialsError as error:
        raise ExportError(f"no credentials for {GOOGLE_HOST}: {error}") from error
    session: requests.Session = AuthorizedSession(credentials)
    return session


class TotalsMixin(MetricReader):
    """Adds totals to the metrics of a reader: OpenTelemetry's histograms take single values only."""

    def __init__(self, read_totals: Callable[[], list[Metric]], *args: Any, **kwargs: Any) -> None:
        """`read_totals` is called at each export."""
        self._read_totals = read_totals
        super().__init__(*args, **kwargs)

    def _receive_metrics(self, metrics_data: MetricsData, *args: Any, **kwargs: Any) -> None:
        (collected,) = metrics_data.resource_metrics
        scope, *others = collected.scope_metrics  # OTLP's exporter takes each scope once
        metrics = [*scope.metrics, *self._read_totals()]
        scopes = [replace(scope, metrics=metrics), *others]
        data = MetricsData([replace(collected, scope_metrics=scopes)])
        super()._receive_metrics(data, *args, **kwargs)  # type: ignore[safe-super]


class PrometheusReader(TotalsMixin, PrometheusMetricReader):
    """Exports to Prometheus."""


class OtlpReader(TotalsMixin, PeriodicExportingMetricReader):
    """Exports to OTLP."""


def build_meter_provider(
    resource: Resource,
    registry: CollectorRegistry | None,
    read_totals: Callable[[], list[Metric]],
) -> MeterProvider:
    """Return a provider that exports to Prometheus's `registry`, if any, and to OTLP, if it is on."""
    readers: list[MetricReader] = []
    if registry is not None:
        readers.append(
            PrometheusReader(
                read_totals, disable_target_info=True, scope_info_enabled=False, registry=registry
            )
        )
    if _is_exported("METRICS"):
        readers.append(OtlpReader(read_totals, OTLPMetricExporter(session=build_session())))
    return MeterProvider(readers, resource)


def build_tracer_provider(resource: Resource, ids: RequestIdGenerator) -> TracerProvider | None:
    """Return a provider that exports to OTLP; None if traces are off."""
    if not _is_exported("TRACES"):
        return None
    provider = TracerProvider(resource=resource, id_generator=ids)
    provider.add_span_processor(BatchSpanProcessor(OTLPSpanExporter(session=build_session())))
    return provider


def _is_exported(signal: str) -> bool:
    return bool(os.environ.get(ENDPOINT)) and os.environ.get(f"OTEL_{signal}_EXPORTER") != "none"


class MetricsServer(socketserver.ThreadingUnixStreamServer):
    """An HTTP server on a unix socket."""

    daemon_threads = True
    request_queue_size = 64

    def handle_error(self, *_: object) -> None:
        """Log a failed response; usually the client has disconnected."""
        logger.info("a request for metrics failed", exc_info=True)


def serve_prometheus(registry: CollectorRegistry, path: Path) -> None:
    """Serve Prometheus's text on a unix socket, to which nginx forwards METRICS_PORT."""
    path.unlink(missing_ok=True)
    server = MetricsServer(str(path), MetricsHandler.factory(registry))
    threading.Thread(target=server.serve_forever, daemon=True).start()
