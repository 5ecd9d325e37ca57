"""Where metrics and traces go: to Prometheus, which asks, and to an OTLP endpoint, which is told.

The variables are OpenTelemetry's own (https://opentelemetry.io/docs/specs/otel/configuration/sdk-environment-variables),
read by its SDK. At Google's endpoint the container's service account is who tells.
"""

import logging
import os
import socketserver
import threading
from pathlib import Path
from urllib.parse import urlsplit

import google.auth
import google.auth.exceptions
import requests
from google.auth.transport.requests import AuthorizedSession
from opentelemetry.exporter.otlp.proto.http.metric_exporter import OTLPMetricExporter
from opentelemetry.exporter.otlp.proto.http.trace_exporter import OTLPSpanExporter
from opentelemetry.exporter.prometheus import PrometheusMetricReader
from opentelemetry.sdk.metrics import MeterProvider
from opentelemetry.sdk.metrics.export import MetricReader, PeriodicExportingMetricReader
from opentelemetry.sdk.resources import OTELResourceDetector, Resource
from opentelemetry.sdk.trace import TracerProvider
from opentelemetry.sdk.trace.export import BatchSpanProcessor
from prometheus_client import CollectorRegistry
from prometheus_client.exposition import MetricsHandler

from serving.telemetry.tracing import Ids

log = logging.getLogger(__name__)
ENDPOINT = "OTEL_EXPORTER_OTLP_ENDPOINT"
GOOGLE = "telemetry.googleapis.com"
SCOPE = "https://www.googleapis.com/auth/cloud-platform"
SAMPLED = {"OTEL_TRACES_SAMPLER": "parentbased_traceidratio", "OTEL_TRACES_SAMPLER_ARG": "0.01"}
"""Unless the environment says otherwise: what its caller samples, and one in a hundred others."""


class ExportError(Exception):
    """Nothing can be told to the OTLP endpoint; the text says why."""


def resource(about: dict[str, str]) -> Resource:
    """Say who tells: `about` is of the model; OpenTelemetry's own variables are stronger."""
    named = {
        "service.name": about["model"],
        "service.version": about["version"],
        "service.instance.id": os.uname().nodename,
    }
    project = os.environ.get("GOOGLE_CLOUD_PROJECT") or os.environ.get("AIP_PROJECT_NUMBER")
    if project:
        named["gcp.project_id"] = project
    more = {
        f"vertex.{name}": value for name, value in about.items() if name not in ("model", "version")
    }
    return Resource.create(named | more).merge(OTELResourceDetector().detect())


def session() -> requests.Session | None:
    """Return what an exporter is to send with, None for its own; raise NotExported."""
    if urlsplit(os.environ[ENDPOINT]).hostname != GOOGLE:
        return None
    try:
        credentials, _ = google.auth.default(scopes=[SCOPE])
    except google.auth.exceptions.DefaultCredentialsError as error:
        raise ExportError(f"no credentials for {GOOGLE}: {error}") from error
    authorized: requests.Session = AuthorizedSession(credentials)
    return authorized


def meters(about: Resource, registry: CollectorRegistry | None) -> MeterProvider:
    """Return what metrics are made with; `registry` is Prometheus's, None where it does not ask."""
    readers: list[MetricReader] = []
    if registry is not None:
        readers.append(
            PrometheusMetricReader(
                disable_target_info=True, scope_info_enabled=False, registry=registry
            )
        )
    if _wanted("METRICS"):
        readers.append(PeriodicExportingMetricReader(OTLPMetricExporter(session=session())))
    return MeterProvider(readers, about)


def tracers(about: Resource, ids: Ids) -> TracerProvider | None:
    """Return what spans are made with, None where nobody is told."""
    if not _wanted("TRACES"):
        return None
    for name, value in SAMPLED.items():
        os.environ.setdefault(name, value)
    provider = TracerProvider(resource=about, id_generator=ids)
    provider.add_span_processor(BatchSpanProcessor(OTLPSpanExporter(session=session())))
    return provider


def _wanted(signal: str) -> bool:
    return bool(os.environ.get(ENDPOINT)) and os.environ.get(f"OTEL_{signal}_EXPORTER") != "none"


class Server(socketserver.ThreadingUnixStreamServer):
    """A server for the front door alone, on a unix socket."""

    daemon_threads = True
    request_queue_size = 64

    def handle_error(self, *_: object) -> None:
        """Say what became of a question; mostly who asked has gone."""
        log.info("a question of Prometheus's was not answered", exc_info=True)


def serve(registry: CollectorRegistry, path: Path) -> None:
    """Answer with Prometheus's text on a unix socket; the front door passes its port on to it."""
    path.unlink(missing_ok=True)
    server = Server(str(path), MetricsHandler.factory(registry))
    threading.Thread(target=server.serve_forever, daemon=True).start()
