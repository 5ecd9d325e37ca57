"""The HTTP routes of Google's APIs, read from Google's own clients.

The services that the emulator does not support are read as well, so that its errors can name their methods.
"""

import pkgutil
import re
from collections.abc import Iterator
from functools import cache
from importlib import import_module
from typing import Any, NamedTuple
from urllib.parse import unquote

from emulator.errors import ApiError, unimplemented

V1, V1BETA1 = "google.cloud.aiplatform_v1", "google.cloud.aiplatform_v1beta1"
PACKAGES = (
    V1,
    "google.cloud.artifactregistry_v1",
    "google.cloud.devtools.cloudbuild_v1",
    "google.cloud.resourcemanager_v3",
    "google.cloud.functions_v2",
)
"""Google's clients of the APIs, but for v1beta1."""
RUN = "/v1/{resource=projects/*/locations/*/services/*}"
IAM = "google.iam.v1.iam_policy_pb2"
SERIES = "/v3/{name=projects/*}/timeSeries"
EXTRA_ROUTES: tuple[tuple[str, str, tuple[str, str, str | None]], ...] = (
    # google-cloud-monitoring has no REST client to read this rule from.
    ("google.cloud.monitoring_v3", "ListTimeSeries", ("get", SERIES, None)),
    ("google.cloud.resourcemanager_v3", "GetProject", ("get", "/v1/{name=projects/*}", None)),
    # Cloud Run's methods that control who may invoke a function.
    (IAM, "GetIamPolicy", ("get", f"{RUN}:getIamPolicy", None)),
    (IAM, "SetIamPolicy", ("post", f"{RUN}:setIamPolicy", "*")),
)
SUPPORTED = frozenset(
    (
        "ModelService",
        "EndpointService",
        "PredictionService",
        "JobService",
        "PipelineService",
        "ScheduleService",
        "ArtifactRegistry",
        "CloudBuild",
        "Projects",
        "FunctionService",
    )
)
"""The services of which the emulator supports methods."""
UNSUPPORTED = (
    ("Resource Manager", r"/v[13]/projects(/[^/]+)?(:\w+)?"),
    ("Service Usage", r"/v1(beta1)?/projects/[^/]+/services(/[^/]+)?(:\w+)?"),
    ("Cloud Logging", r"/v2/.+"),
    ("Cloud Run", r"/(v[12]|apis)/.*(services|revisions|jobs|routes)(/.*)?"),
    ("Artifact Registry", r"/v1beta[12]/projects/[^/]+/locations(/.*)?"),
)
"""APIs without a published Python client here, and patterns of their paths."""
OPERATIONS = re.compile("(Get|List|Cancel|Delete|Wait)Operations?")
"""Every client has the methods for operations; operations.py implements those that are needed."""
MIXED_IN = re.compile("(Get|List)Locations?|(Get|Set)IamPolicy")
"""Methods that every client has for any resource: their routes are tried last, and are not supported."""


class Route(NamedTuple):
    """The HTTP rule of one of Google's methods."""

    rpc: str
    service: str
    """Such as ModelService; empty for EXTRA_ROUTES."""
    verb: str
    path: re.Pattern[str]
    variables: tuple[str, ...]
    is_supported: bool
    """Whether the service is one of those of which the emulator supports methods."""
    body: str | None
    """The field that the body holds; "*": the body is the whole request; None: there is no body."""
    request_type: Any
    """A proto-plus or a protobuf class; None if the published package has no type of that name."""


def is_beta(path: str) -> bool:
    """Return whether a path belongs to the API version v1beta1 of Vertex AI."""
    return path.startswith("/v1beta1/")


@cache
def routes(*, beta: bool) -> tuple[Route, ...]:
    """Return every route of Vertex AI's v1beta1, or of all other APIs; those of shared methods are last."""
    found = [route for each in ([V1BETA1] if beta else PACKAGES) for route in _read_routes(each)]
    if not beta:
        found += [_route(package, "", rpc, rule) for package, rpc, rule in EXTRA_ROUTES]
    return tuple(sorted(found, key=lambda route: not route.is_supported))


def find_route(verb: str, path: str) -> tuple[Route, dict[str, str]]:
    """Return the route of a request and the variables in its path; raise ApiError."""
    path_exists = False
    for route in routes(beta=is_beta(path)):
        if match := route.path.fullmatch(path):
            path_exists = True
            if route.verb == verb.lower():
                variables = zip(route.variables, match.groups(), strict=True)
                return route, {name: unquote(value) for name, value in variables}
    for api, pattern in UNSUPPORTED:
        if re.fullmatch(pattern, path):
            raise not_supported(f"{verb} {path} of {api}")
    if path_exists:
        raise not_supported(f"{verb} {path}")
    raise ApiError("NOT_FOUND", f"Google publishes no method for {verb} {path}")


def not_supported(what: str) -> ApiError:
    """Return the error for a method that Google publishes and the emulator does not support."""
    return unimplemented(
        f"the emulator does not support {what}; emulator/README.md lists what it supports"
    )


def _read_routes(package: str) -> Iterator[Route]:
    services = import_module(f"{package}.services")
    for module in pkgutil.iter_modules(services.__path__):
        service = module.name.title().replace("_", "")
        base = import_module(f"{package}.services.{module.name}.transports.rest_base")
        transport = getattr(base, f"_Base{service}RestTransport")
        for name in dir(transport):
            get_options = getattr(getattr(transport, name), "_get_http_options", None)
            rpc = name.removeprefix("_Base")
            if get_options and rpc != name and not OPERATIONS.fullmatch(rpc):
                for option in get_options():
                    rule = option["method"], option["uri"], option.get("body")
                    yield _route(package, service, rpc, rule)


def _route(package: str, service: str, rpc: str, rule: tuple[str, str, str | None]) -> Route:
    verb, template, body = rule
    variables: list[str] = []

    def to_group(match: re.Match[str]) -> str:
        variables.append(match[1])
        # The ID of a project in a domain has a colon: example.com:project.
        pattern = (match[2] or "*").replace("projects/*", "projects/[^/]+").replace("**", ".+")
        return f"({re.sub(r'(?<!])[*]', '[^/:]+', pattern)})"

    template = template.replace(":", r"\:").replace("$", r"\$")
    pattern = re.compile(re.sub(r"\{([a-z_.]+)(?:=([^}]+))?\}", to_group, template))
    is_supported = not service or (service in SUPPORTED and not MIXED_IN.fullmatch(rpc))
    request_type = _request_type(package, rpc)
    return Route(rpc, service, verb, pattern, tuple(variables), is_supported, body, request_type)


def _request_type(package: str, rpc: str) -> Any:
    if rpc == "TestIamPermissions":
        package = IAM
    return getattr(import_module(package), f"{rpc}Request", None)
