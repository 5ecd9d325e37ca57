"""The configuration of an endpoint: what can be changed later, and what needs another endpoint. Pure."""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field

from deploy.conflicts import SHARED_TIMEOUT_S
from deploy.errors import UserError
from deploy.settings import Settings

EXTRA_TIMEOUT_S = 10
"""How much longer than the container an endpoint waits, so that the container's error arrives."""
MAX_TIMEOUT_S, DEFAULT_DEDICATED_TIMEOUT_S = 3600, 600
DEFAULT_LABELS = {"created-by": "deploy"}


@dataclass(frozen=True, kw_only=True)
class EndpointConfig:
    """The settings of an endpoint, as they are set or as Google has them."""

    kind: str = "shared"
    """shared, dedicated, psc (Private Service Connect) or peered (with a network)"""
    projects: frozenset[str] = frozenset()
    """Projects that reach a psc endpoint."""
    network: str = ""
    kms_key: str = ""
    timeout_s: int = 0
    """0: Google's default"""
    log_percent: float = 0.0
    log_table: str = ""
    labels: Mapping[str, str] = field(default_factory=dict)
    etag: str = ""
    """Of the endpoint at Google."""
    service_attachment: str = ""
    """What a forwarding rule in another network targets, for a psc endpoint at Google."""


IMMUTABLE = {
    "kind": "dedicated, psc_projects and network",
    "projects": "psc_projects",
    "network": "network",
    "kms_key": "kms_key",
}
"""A part that cannot be changed → the settings that set it."""


def from_settings(settings: Settings) -> EndpointConfig:
    """Return the configuration of the settings."""
    s = settings
    kind = "shared"
    for name, value in (("dedicated", s.dedicated), ("psc", s.psc_projects), ("peered", s.network)):
        kind = name if value else kind
    timeout_s = s.inference_timeout_s
    if not timeout_s and s.response_timeout_s:
        timeout_s = min(s.response_timeout_s + EXTRA_TIMEOUT_S, MAX_TIMEOUT_S)
    return EndpointConfig(
        kind=kind,
        projects=frozenset(s.psc_projects),
        network=s.network,
        kms_key=s.kms_key,
        timeout_s=timeout_s if kind in ("dedicated", "psc") else 0,
        log_percent=s.request_log_percent,
        log_table=s.request_log_table,
        labels=s.labels,
    )


def request_timeout_s(settings: Settings) -> int:
    """Return how long a client should wait: a little longer than the endpoint, so that its error arrives."""
    config = from_settings(settings)
    is_long = config.kind in ("dedicated", "psc")
    default_s = DEFAULT_DEDICATED_TIMEOUT_S if is_long else SHARED_TIMEOUT_S
    return (config.timeout_s or default_s) + EXTRA_TIMEOUT_S


def check_immutable(current: EndpointConfig, expected: EndpointConfig, name: str) -> None:
    """Raise UserError for the first difference that an update cannot remove."""
    for part, settings in IMMUTABLE.items():
        found, wanted = getattr(current, part), getattr(expected, part)
        if found == wanted:
            continue
        reason = f"{settings} of the endpoint {name} cannot be changed"
        if part == "kind":
            reason = f"{name} is a {found} endpoint, but {_describe_kind(wanted)} is set"
        hint = (
            "undo the change in deploy.toml, set another name in the model's deploy.toml for a second endpoint, "
            "or run make teardown first"
        )
        raise UserError(reason, hint)


def changed_parts(current: EndpointConfig, expected: EndpointConfig) -> Iterator[str]:
    """Yield what an update has to set: labels, logging, timeout. Other labels of the endpoint stay."""
    if not expected.labels.items() <= current.labels.items():
        yield "labels"
    table = expected.log_table if expected.log_percent else ""
    if current.log_percent != expected.log_percent or (table and table != current.log_table):
        yield "logging"
    # Google does not say which value is its default: without a setting the timeout stays.
    if expected.timeout_s and current.timeout_s != expected.timeout_s:
        yield "timeout"


def _describe_kind(kind: str) -> str:
    return {
        "shared": "dedicated = false",
        "dedicated": "dedicated = true",
        "psc": "psc_projects",
        "peered": "network",
    }[kind]
