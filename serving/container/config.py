"""What the environment says, read once."""

import re
import sys
from collections.abc import Mapping
from typing import NamedTuple

from serving import artifact

MEBIBYTE = 1 << 20
MOST_REQUEST_BYTES = 100 * MEBIBYTE
"""Of one request: Java's heap, which may be smaller still, has to hold it three times over."""

LABELS = (
    ("AIP_ENDPOINT_ID", "endpoint_id"),
    ("AIP_DEPLOYED_MODEL_ID", "deployed_model_id"),
    ("AIP_MODEL_NAME", "model_name"),
    ("AIP_VERSION_NAME", "model_version"),
)


class ConfigError(Exception):
    """A variable that cannot be followed; the text names it."""


class Config(NamedTuple):
    """The container's settings. In the order: AIP_* variable, ours, default."""

    port: int
    health: str
    predict: str
    """A path; with `invoke`, any path but / and the health route."""
    largest_request: int
    """Bytes."""
    storage: str | None = None
    """Where the model is fetched from; None for the archive baked in."""
    archive_sha256: str | None = None
    """Of the archive in the storage, in hex; None for any."""
    invoke: bool = False
    """Whether the model was uploaded with invoke_route_prefix "/*"."""
    access_log: bool = False
    """Whether every prediction gets a line in the log, or only those that fail for our fault."""
    log_level: str = "INFO"
    """The least severity that is written."""
    log_text: bool = False
    """Whether lines are for people, or JSON for Cloud Logging."""
    labels: tuple[tuple[str, str], ...] = ()
    """What every line is labelled with: where on Vertex AI this container runs."""
    traces: str = ""
    """What a trace's id stands after in Cloud Logging: projects/PROJECT/traces/, or nothing."""
    metrics_port: int | None = None
    """Where Prometheus may ask; None: nowhere."""
    otlp: bool = False
    """Whether metrics and traces are sent; where to is OpenTelemetry's to read, and may be a secret."""

    @property
    def predict_said(self) -> str:
        """The predict route as it is told to people."""
        return "/*" if self.invoke else self.predict

    @property
    def telemetry(self) -> bool:
        """Whether anybody wants to know how the server fares."""
        return bool(self.metrics_port or self.otlp)


def read(environ: Mapping[str, str], baked: str) -> Config:
    """Take the settings out of the environment; raise BadVariable.

    `baked` is the name of the archive baked in.
    """
    storage = environ.get("AIP_STORAGE_URI") or None
    endpoint, deployed = environ.get("AIP_ENDPOINT_ID"), environ.get("AIP_DEPLOYED_MODEL_ID")
    health, predict = "/ping", f"/predictions/{artifact.NAME if storage else baked}"
    if endpoint and deployed:  # what Vertex itself takes where a model names no routes
        health = f"/v1/endpoints/{endpoint}/deployedModels/{deployed}"
        predict = f"{health}:predict"
    prefixes = ("AIP_INVOKE_ROUTE_PREFIX", "INVOKE_ROUTE_PREFIX")
    project = environ.get("GOOGLE_CLOUD_PROJECT") or environ.get("AIP_PROJECT_NUMBER")
    pin = _text(environ, artifact.PIN, r"\s*[0-9a-fA-F]{64}\s*", "a SHA-256, 64 hexadecimal digits")
    config = Config(
        port=_number(environ, "AIP_HTTP_PORT", 8080, most=65535),
        health=_route(environ, "AIP_HEALTH_ROUTE", health),
        predict=_route(environ, "AIP_PREDICT_ROUTE", predict),
        largest_request=_number(
            environ, "MAX_REQUEST_BYTES", 10 * MEBIBYTE, most=MOST_REQUEST_BYTES
        ),
        storage=storage,
        archive_sha256=pin.strip().lower() or None,
        invoke=any(
            _text(environ, name, r"/\*", '"/*", the one value that Vertex has') for name in prefixes
        ),
        access_log=_one_of(environ, "ACCESS_LOG", "errors", "all") == "all",
        log_level=_one_of(environ, "LOG_LEVEL", "INFO", "DEBUG", "WARNING", "ERROR", "CRITICAL"),
        log_text=_one_of(environ, "LOG_FORMAT", default_format(), "json", "text") == "text",
        labels=tuple((label, _label(environ[name])) for name, label in LABELS if environ.get(name)),
        traces=f"projects/{_label(project)}/traces/" if project else "",
        metrics_port=_number(environ, "METRICS_PORT", 0, most=65535)
        if environ.get("METRICS_PORT")
        else None,
        otlp=_is_url(environ, "OTEL_EXPORTER_OTLP_ENDPOINT"),
    )
    if config.health == config.predict:
        raise ConfigError(f"AIP_HEALTH_ROUTE and AIP_PREDICT_ROUTE are both {config.health}")
    if config.metrics_port == config.port:
        raise ConfigError(f"METRICS_PORT and AIP_HTTP_PORT are both {config.port}")
    return config


def _text(
    environ: Mapping[str, str], name: str, pattern: str, expected: str, default: str = ""
) -> str:
    """Return a variable that matches a pattern; raise BadVariable with what was expected."""
    text = environ.get(name) or default
    if text and not re.fullmatch(pattern, text):
        raise ConfigError(f"{name}={text}: expected {expected}")
    return text


def _number(environ: Mapping[str, str], name: str, default: int, most: int) -> int:
    text = environ.get(name) or str(default)
    if not re.fullmatch("[0-9]{1,12}", text) or not 1 <= int(text) <= most:
        raise ConfigError(f"{name}={text}: expected a whole number from 1 to {most}")
    return int(text)


def _one_of(environ: Mapping[str, str], name: str, *values: str) -> str:
    return _text(environ, name, "|".join(values), " or ".join(values), values[0])


def _is_url(environ: Mapping[str, str], name: str) -> bool:
    text = environ.get(name)
    if text and not re.fullmatch(r"https?://[^/\s]+\S*", text):  # which may be a secret
        raise ConfigError(f"{name}: expected http://HOST:PORT or https://HOST")
    return bool(text)


def _route(environ: Mapping[str, str], name: str, default: str) -> str:
    # It becomes a part of nginx's configuration: only what a path is made of may pass.
    expected = "a path that starts with / and has no spaces"
    text = _text(environ, name, r"/[A-Za-z0-9._~:@!*+,=/-]*", expected, default)
    # nginx compares with the path that is left when these are resolved: it would never match.
    if re.search(r"//|/\.{1,2}(/|$)", text):
        raise ConfigError(f"{name}={text}: expected a path without //, /. and /..")
    return text


def default_format() -> str:
    """Return how lines are written unless LOG_FORMAT says: as text on a terminal."""
    return "text" if sys.stdout.isatty() else "json"


def _label(text: str) -> str:
    # It becomes a part of nginx's configuration, too.
    return re.sub(r"[^A-Za-z0-9._:@/-]", "_", text)[:100]
