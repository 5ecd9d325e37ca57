"""HTTP to Google's own published types and back.

The routes are not written here: they are read from the HTTP config inside Google's own clients
(google-cloud-aiplatform, -artifact-registry, -build, -resource-manager), and so are the types; what
is required is read from those types' own documentation.
"""

import json
import re
from collections.abc import Collection, Iterator, Mapping
from functools import cache
from importlib import import_module
from typing import Any, NamedTuple
from urllib.parse import unquote

import proto
from google.protobuf import json_format, message
from google.protobuf.descriptor import Descriptor, FieldDescriptor

from emulator.errors import ApiError, invalid_argument, unimplemented

VERTEX = "model_service endpoint_service prediction_service job_service pipeline_service schedule_service"
SERVICES = {
    "google.cloud.aiplatform_v1": VERTEX,
    "google.cloud.artifactregistry_v1": "artifact_registry",
    "google.cloud.devtools.cloudbuild_v1": "cloud_build",
    "google.cloud.resourcemanager_v3": "projects",
    "google.cloud.functions_v2": "function_service",
}
"""Google's packages, and the modules of the services in them."""
RUN = "/v1/{resource=projects/*/locations/*/services/*}"
IAM = "google.iam.v1.iam_policy_pb2"
SERIES = "/v3/{name=projects/*}/timeSeries"
BY_HAND = (
    # google-cloud-monitoring has no REST client to read this rule from.
    ("google.cloud.monitoring_v3", "ListTimeSeries", "get", SERIES, None),
    ("google.cloud.resourcemanager_v3", "GetProject", "get", "/v1/{name=projects/*}", None),
    # Cloud Run's, for who may invoke a function.
    (IAM, "GetIamPolicy", "get", f"{RUN}:getIamPolicy", None),
    (IAM, "SetIamPolicy", "post", f"{RUN}:setIamPolicy", "*"),
)
# Operations and locations are mixed into every client; operations.py answers for all of them.
MIXED_IN = re.compile("(Get|List|Cancel|Delete|Wait)(Operation|Location)s?|(Get|Set)IamPolicy")
SYSTEM = {"alt", "$alt", "key", "fields", "prettyPrint", "quotaUser", "access_token", "callback"}


class Route(NamedTuple):
    """One of Google's methods as HTTP knows it."""

    rpc: str
    verb: str
    path: re.Pattern[str]
    variables: tuple[str, ...]
    body: str | None
    """The field that the body is; "*": the whole request; None: there is no body."""
    request: Any
    """The request's type: a proto-plus class or a plain protobuf one."""


@cache
def routes() -> tuple[Route, ...]:
    """Read every route from Google's clients."""
    return tuple(_read_routes())


def find(verb: str, path: str) -> tuple[Route, dict[str, str]]:
    """Return the route of a path and its variables; raise Refused."""
    known = False
    for route in routes():
        if match := route.path.fullmatch(path):
            known = True
            if route.verb == verb.lower() and route.request is not None:
                found = zip(route.variables, match.groups(), strict=True)
                return route, {name: unquote(value) for name, value in found}
    if known:
        raise unimplemented(f"{verb} is not a method of {path}")
    raise ApiError(
        "NOT_FOUND", f"Google publishes no method of the APIs rehearsed here for {verb} {path}"
    )


def parse(verb: str, path: str, query: Mapping[str, list[str]], body: bytes) -> tuple[Route, Any]:
    """Read a request into Google's type for it; return it with its route.

    Raises:
        Refused: no such method, an unknown field, a value of a wrong type, or a required one missing.

    """
    route, variables = find(verb, path)
    kind = descriptor(route.request)
    if route.body is None:
        content: dict[str, Any] = {}
        # Google ignores the empty object that some clients send beside a GET.
        if body.strip() not in (b"", b"{}"):
            raise invalid_argument(f"{route.rpc} has no body")
    else:
        sent = _json(body)
        content = sent
        if route.body != "*":
            content = {kind.fields_by_name[route.body].json_name: sent}
    for name, values in query.items():
        if name not in SYSTEM and not name.startswith("$."):
            _put(content, kind, name.split("."), values)
    for name, value in variables.items():
        _put(content, kind, name.split("."), [value])
    request = _fill(route.request, content)
    # Cloud Build's methods have two paths each; what the other one carries is not missing.
    elsewhere = {name for other in routes() if other.rpc == route.rpc for name in other.variables}
    # An update gives the fields that its mask names, and no others.
    deep = "update_mask" not in kind.fields_by_name
    _demand(request, route.request, "", deep=deep, spared=elsewhere)
    return route, request


def as_json(answer: Any) -> dict[str, Any]:
    """Write one of Google's types as its REST API does."""
    written: dict[str, Any] = json_format.MessageToDict(plain(answer))
    return written


def plain(value: Any) -> message.Message:
    """Return one of Google's types as protobuf's, whether proto-plus made it or protobuf."""
    found: message.Message = type(value).pb(value) if isinstance(value, proto.Message) else value
    return found


def descriptor(kind: Any) -> Descriptor:
    """Return a type's descriptor, whether proto-plus made it or protobuf."""
    plain = kind.pb() if issubclass(kind, proto.Message) else kind
    found: Descriptor = plain.DESCRIPTOR
    return found


def _read_routes() -> Iterator[Route]:
    for package, modules in SERVICES.items():
        for module in modules.split():
            service = module.title().replace("_", "")
            base = import_module(f"{package}.services.{module}.transports.rest_base")
            transport = getattr(base, f"_Base{service}RestTransport")
            for name in dir(transport):
                rule = getattr(getattr(transport, name), "_get_http_options", None)
                if rule and name.startswith("_Base") and not MIXED_IN.fullmatch(name[5:]):
                    for option in rule():
                        verb, uri, body = option["method"], option["uri"], option.get("body")
                        yield _route(package, name[5:], verb, uri, body)
    for by_hand in BY_HAND:
        yield _route(*by_hand)


def _route(package: str, rpc: str, verb: str, template: str, body: str | None) -> Route:
    variables: list[str] = []

    def group(match: re.Match[str]) -> str:
        variables.append(match[1])
        return "(" + (match[2] or "*").replace("**", ".+").replace("*", "[^/:]+") + ")"

    template = template.replace(":", r"\:").replace("$", r"\$")
    pattern = re.sub(r"\{([a-z_.]+)(?:=([^}]+))?\}", group, template)
    kind = _type(package, rpc)
    return Route(rpc, verb, re.compile(pattern), tuple(variables), body, kind)


def _type(package: str, rpc: str) -> Any:
    if rpc == "TestIamPermissions":
        return import_module("google.iam.v1.iam_policy_pb2").TestIamPermissionsRequest
    return getattr(import_module(package), f"{rpc}Request", None)


def _json(body: bytes) -> Any:
    try:
        return json.loads(body or b"{}")
    except ValueError as error:
        raise invalid_argument(f"Invalid JSON payload received. {error}") from None


def _put(content: Any, kind: Descriptor, path: list[str], values: list[str]) -> None:
    """Set a field, named in the query or the path, in the JSON that is to be parsed."""
    for index, name in enumerate(path):
        field = kind.fields_by_name.get(name) or kind.fields_by_camelcase_name.get(name)
        if field is None:
            where = ".".join(path)
            raise invalid_argument(
                f'Invalid JSON payload received. Unknown name "{where}": Cannot bind query parameter. '
                f"Field '{where}' could not be found in request message."
            )
        if index == len(path) - 1:
            if not isinstance(content, dict):
                raise invalid_argument("Invalid value: expected an object")
            content[field.json_name] = (
                list(values) if field.is_repeated else _value(field, values[-1])
            )
        else:
            content, kind = content.setdefault(field.json_name, {}), field.message_type


def _value(field: FieldDescriptor, text: str) -> Any:
    if (
        field.message_type is not None
        and field.message_type.full_name == "google.protobuf.FieldMask"
    ):
        # Google takes both spellings, its own parser only one.
        return re.sub("_([a-z])", lambda match: match[1].upper(), text)
    if field.type == FieldDescriptor.TYPE_BOOL:
        return {"true": True, "false": False}.get(text.lower(), text)
    if field.type == FieldDescriptor.TYPE_ENUM and text.isdigit():
        return int(text)
    return text


def _fill(kind: Any, content: dict[str, Any]) -> Any:
    try:
        if not issubclass(kind, proto.Message):
            return json_format.ParseDict(content, kind())
        plain: message.Message = kind.pb()()
        json_format.ParseDict(content, plain)
        return kind.wrap(plain)
    except json_format.ParseError as error:
        raise invalid_argument(f"Invalid JSON payload received. {_said(error)}") from None


def _said(error: json_format.ParseError) -> str:
    """Return a parser's complaint as Google words an unknown field, and as it is otherwise."""
    unknown = re.search(r'has no field named "([^"]+)" at "([^"]+)"', str(error))
    if unknown is None:
        return str(error)
    where = unknown[2].partition(".")[2]
    at = f" at '{where}'" if where else ""
    return f'Unknown name "{unknown[1]}"{at}: Cannot find field.'


def _demand(request: Any, kind: Any, at: str, *, deep: bool, spared: Collection[str] = ()) -> None:
    """Refuse a message in which a field is missing whose documentation begins with Required."""
    if not issubclass(kind, proto.Message):
        return
    plain = kind.pb(request)
    needed = required(kind)
    for field in plain.DESCRIPTOR.fields:
        where = f"{at}{field.name}"
        if not _is_set(plain, field):
            # An enum's first value may be meant; it is not written.
            wanted = field.name in needed and field.name not in spared
            if wanted and field.type != FieldDescriptor.TYPE_ENUM:
                raise invalid_argument(f"Required field is not set: {where}.")
            continue
        inner = kind.meta.fields[field.name].message if field.name in kind.meta.fields else None
        if not deep or not isinstance(inner, type) or not issubclass(inner, proto.Message):
            continue
        values = getattr(request, field.name)
        if not field.is_repeated:
            _demand(values, inner, f"{where}.", deep=True)
        elif not field.message_type.GetOptions().map_entry:
            for index, value in enumerate(values):
                _demand(value, inner, f"{where}[{index}].", deep=True)


def _is_set(plain: message.Message, field: FieldDescriptor) -> bool:
    if field.has_presence:
        return bool(plain.HasField(field.name))
    value = getattr(plain, field.name)
    return bool(value) if field.is_repeated else bool(value != field.default_value)


@cache
def required(kind: Any) -> frozenset[str]:
    """Return the fields that Google's documentation of a type calls required."""
    return frozenset(
        re.findall(r"^ {8}(\w+) \([^\n]*\):\n +Required\.", kind.__doc__ or "", re.MULTILINE)
    )
