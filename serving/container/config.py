"""The container's configuration: environment variables, read once at the start.

Each variable is declared once in `read_config`: name, cast, default. A cast takes the variable's
text and raises ValueError with what it expected.
"""

import dataclasses
import re
import sys
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import TypeVar

from serving import artifact
from serving.container.errors import ConfigError
from serving.logs import SEVERITIES
from serving.selection import MODEL_NAME
from serving.torchserve import PATCHES_VARIABLE, STOCK_VARIABLES

T = TypeVar("T")

MEBIBYTE = 1 << 20
MAX_REQUEST_BYTES_LIMIT = 100 * MEBIBYTE
MAX_GPU_CLIENTS = 48
"""GKE's maximum number of pods that share a GPU."""
MAX_RESPONSE_TIMEOUT_S = 3600
"""The longest that a dedicated endpoint of Vertex AI waits."""

LABELS = {
    "AIP_ENDPOINT_ID": "endpoint_id",
    "AIP_DEPLOYED_MODEL_ID": "deployed_model_id",
    "AIP_MODEL_NAME": "model_name",
    "AIP_VERSION_NAME": "model_version",
}
"""The label for each variable in which Vertex AI names the deployed model."""
DEFAULT_SAMPLER = "parentbased_traceidratio"
REQUEST_PATHS = ("direct", "torchserve")
SECRETS = ("OTEL_EXPORTER_OTLP_ENDPOINT",)
"""Variables that may contain a password: errors do not quote them."""


@dataclass(frozen=True, kw_only=True)
class Config:
    """The container's configuration."""

    port: int
    health_route: str
    predict_route: str
    """Ignored if `any_route` is set."""
    max_request_bytes: int
    storage_uri: str | None
    """The location of the model; None: the archives in the image."""
    default_model: str | None
    """Which of several models answers requests that choose none."""
    archive_sha256: str | None
    """The expected SHA-256 of the archive in `storage_uri`, in hex; None: no check."""
    any_route: bool
    """Whether a POST to any path is a prediction: for invoke_route_prefix "/*"."""
    log_all_requests: bool
    """Whether every prediction is logged, or only those with a 5xx response."""
    log_level: str
    """The minimum severity."""
    log_format: str
    """json (for Cloud Logging) or text."""
    labels: Mapping[str, str]
    """The labels of every log line."""
    trace_prefix: str
    """The prefix of a trace's ID in Cloud Logging: projects/PROJECT/traces/, or nothing."""
    metrics_port: int | None
    """The port for Prometheus; None: closed."""
    torchserve_patches: bool
    """Whether the patches of TorchServe are applied: docs/decisions.md."""
    request_path: str
    """direct: nginx passes requests to the workers; torchserve: to TorchServe's Java, which passes them on."""
    gpu_clients: int | None
    """The number of containers that use each GPU in turns; None: no others do."""
    response_timeout_s: int | None
    """The time for a response; None: the archive's own, or the default."""
    service_envelope: str | None
    """json or none: how stock archives get JSON; None: json. Their handler reads the variable itself."""
    wrap_instances: str | None
    """data: stock archives get an instance as {"data": instance}. Their handler reads the variable itself."""
    otlp: bool
    """Whether metrics and traces are sent to OTEL_EXPORTER_OTLP_ENDPOINT. OpenTelemetry reads the
    URL itself; it may contain a secret and is not kept here."""
    trace_sampler: str | None
    """OpenTelemetry's name of the sampler; None if no traces are sent."""
    trace_share: float | None
    """The share of the requests whose callers have not decided."""

    @property
    def has_telemetry(self) -> bool:
        """Whether the telemetry process runs."""
        return bool(self.metrics_port or self.otlp)

    def __str__(self) -> str:
        """Return name=value pairs, without the values that are not set."""
        values = dataclasses.asdict(self)
        values |= values.pop("labels")
        return " ".join(f"{name}={value}" for name, value in values.items() if value or value == 0)


def read_config(environ: Mapping[str, str], model_name: str = MODEL_NAME) -> Config:
    """Read the configuration; raise ConfigError.

    `model_name` is the name of the only archive in the image.
    """
    environ = strip_carriage_returns(environ)

    def optional(name: str, cast: Callable[[str], T]) -> T | None:
        text = environ.get(name)
        return _parse(name, text, cast) if text else None

    def read(name: str, cast: Callable[[str], T], default: str) -> T:
        return _parse(name, environ.get(name) or default, cast)

    storage_uri = optional("AIP_STORAGE_URI", str)
    endpoint, deployed = environ.get("AIP_ENDPOINT_ID"), environ.get("AIP_DEPLOYED_MODEL_ID")
    health, predict = "/ping", f"/predictions/{MODEL_NAME if storage_uri else model_name}"
    if endpoint and deployed:  # Vertex AI's own defaults
        health = f"/v1/endpoints/{endpoint}/deployedModels/{deployed}"
        predict = f"{health}:predict"
    project = optional("GOOGLE_CLOUD_PROJECT", _label) or optional("AIP_PROJECT_NUMBER", _label)
    otlp, sampler = optional("OTEL_EXPORTER_OTLP_ENDPOINT", _url) is not None, None
    if otlp and environ.get("OTEL_TRACES_EXPORTER") != "none":
        sampler = read("OTEL_TRACES_SAMPLER", str, DEFAULT_SAMPLER)
    patched = read(PATCHES_VARIABLE, _one_of("on", "off"), "on") == "on"
    config = Config(
        port=read("AIP_HTTP_PORT", _port, "8080"),
        health_route=read("AIP_HEALTH_ROUTE", _route, health),
        predict_route=read("AIP_PREDICT_ROUTE", _route, predict),
        max_request_bytes=read("MAX_REQUEST_BYTES", _request_bytes, str(10 * MEBIBYTE)),
        storage_uri=storage_uri,
        default_model=optional("DEFAULT_MODEL", str),
        archive_sha256=optional(artifact.SHA256_VARIABLE, _sha256),
        any_route=bool(
            optional("AIP_INVOKE_ROUTE_PREFIX", _invoke_prefix)
            or optional("INVOKE_ROUTE_PREFIX", _invoke_prefix)
        ),
        log_all_requests=read("ACCESS_LOG", _one_of("errors", "all"), "errors") == "all",
        log_level=read("LOG_LEVEL", _one_of(*SEVERITIES), "INFO"),
        log_format=read("LOG_FORMAT", _one_of("json", "text"), default_log_format()),
        labels={key: text for name, key in LABELS.items() if (text := optional(name, _label))},
        trace_prefix=f"projects/{project}/traces/" if project else "",
        metrics_port=optional("METRICS_PORT", _port),
        torchserve_patches=patched,
        request_path=read("REQUEST_PATH", _one_of(*REQUEST_PATHS), REQUEST_PATHS[not patched]),
        gpu_clients=optional("GPU_CLIENTS", _containers),
        response_timeout_s=optional("RESPONSE_TIMEOUT_S", _seconds),
        **{
            name.lower(): optional(name, _one_of(*values))
            for name, values in STOCK_VARIABLES.items()
        },
        otlp=otlp,
        trace_sampler=sampler,
        trace_share=read("OTEL_TRACES_SAMPLER_ARG", _share, "0.01") if sampler else None,
    )
    if config.request_path == "direct" and not patched:
        raise ConfigError(
            f"REQUEST_PATH=direct needs this project's worker, and {PATCHES_VARIABLE}=off turns it off"
        )
    if config.health_route == config.predict_route:
        route = config.health_route
        raise ConfigError(
            f"AIP_HEALTH_ROUTE and AIP_PREDICT_ROUTE are both {route}: expected two routes"
        )
    if config.metrics_port == config.port:
        raise ConfigError(
            f"METRICS_PORT and AIP_HTTP_PORT are both {config.port}: expected two ports"
        )
    return config


def strip_carriage_returns(environ: Mapping[str, str]) -> dict[str, str]:
    """Return the variables without the carriage returns that a file of variables from Windows adds."""
    return {name: text.rstrip("\r") for name, text in environ.items()}


def _parse(name: str, text: str, cast: Callable[[str], T]) -> T:
    try:
        return cast(text)
    except ValueError as error:
        value = "" if name in SECRETS else f"={text!r}"
        raise ConfigError(f"{name}{value}: expected {error}") from None


def default_log_format() -> str:
    """Return text on a terminal, json otherwise."""
    return "text" if sys.stdout.isatty() else "json"


def _port(text: str) -> int:
    return _whole_number(text, 65535, "a port")


def _request_bytes(text: str) -> int:
    return _whole_number(text, MAX_REQUEST_BYTES_LIMIT, "a number of bytes")


def _containers(text: str) -> int:
    return _whole_number(text, MAX_GPU_CLIENTS, "a number of containers")


def _seconds(text: str) -> int:
    return _whole_number(text, MAX_RESPONSE_TIMEOUT_S, "a number of seconds")


def _whole_number(text: str, maximum: int, kind: str) -> int:
    if not re.fullmatch("[0-9]{1,12}", text) or not 1 <= int(text) <= maximum:
        raise ValueError(f"{kind} from 1 to {maximum}")
    return int(text)


def _share(text: str) -> float:
    if not re.fullmatch(r"[0-9]{0,3}\.?[0-9]{1,12}", text) or float(text) > 1:
        raise ValueError("a number from 0 to 1")
    return float(text)


def _route(text: str) -> str:
    # A route becomes part of nginx's configuration: it must not contain nginx's own syntax.
    if not re.fullmatch(r"/[A-Za-z0-9._~:@!*+,=/-]*", text):
        raise ValueError("a path that starts with / and has no spaces")
    # nginx resolves these in a request's path before it compares: the route would never match.
    if re.search(r"//|/\.{1,2}(/|$)", text):
        raise ValueError("a path without //, /. and /..")
    return text


def _sha256(text: str) -> str:
    if not re.fullmatch("[0-9a-fA-F]{64}", text.strip()):
        raise ValueError("a SHA-256: 64 hexadecimal digits")
    return text.strip().lower()


def _invoke_prefix(text: str) -> bool:
    if text != "/*":
        raise ValueError("/*, the only value that Vertex AI supports")
    return True


def _url(text: str) -> str:
    if not re.fullmatch(r"https?://[^/\s]+\S*", text):
        raise ValueError("http://HOST:PORT or https://HOST")
    return text


def _one_of(*values: str) -> Callable[[str], str]:
    def cast(text: str) -> str:
        if text not in values:
            raise ValueError(" or ".join(values))
        return text

    return cast


def _label(text: str) -> str:
    # A label becomes part of nginx's configuration, like a route.
    return re.sub(r"[^A-Za-z0-9._:@/-]", "_", text)[:100]
