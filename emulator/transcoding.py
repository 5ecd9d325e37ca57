"""Transcoding between HTTP and Google's published message types.

Routes come from the HTTP rules in Google's own clients (google-cloud-aiplatform, -artifact-registry, -build,
-resource-manager, -functions), and so do the types. Required fields come from the types' documentation.
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
"""Google's packages → the modules of the services in them."""
RUN = "/v1/{resource=projects/*/locations/*/services/*}"
IAM = "google.iam.v1.iam_policy_pb2"
SERIES = "/v3/{name=projects/*}/timeSeries"
EXTRA_ROUTES = (
    # google-cloud-monitoring has no REST client to read this rule from.
    ("google.cloud.monitoring_v3", "ListTimeSeries", "get", SERIES, None),
    ("google.cloud.resourcemanager_v3", "GetProject", "get", "/v1/{name=projects/*}", None),
    # Cloud Run's methods that control who may invoke a function.
    (IAM, "GetIamPolicy", "get", f"{RUN}:getIamPolicy", None),
    (IAM, "SetIamPolicy", "post", f"{RUN}:setIamPolicy", "*"),
)
# Every client has the methods for operations and locations; operations.py implements those that are needed.
MIXED_IN = re.compile("(Get|List|Cancel|Delete|Wait)(Operation|Location)s?|(Get|Set)IamPolicy")
SYSTEM_PARAMETERS = frozenset(
    {"alt", "$alt", "key", "fields", "prettyPrint", "quotaUser", "access_token", "callback"}
)
INVALID_JSON = "Invalid JSON payload received."


class Route(NamedTuple):
    """The HTTP rule of one of Google's methods."""

    rpc: str
    verb: str
    path: re.Pattern[str]
    variables: tuple[str, ...]
    body: str | None
    """The field that the body holds; "*": the body is the whole request; None: there is no body."""
    request_type: Any
    """A proto-plus or a protobuf class."""


@cache
def routes() -> tuple[Route, ...]:
    """Return every route of Google's clients."""
    return tuple(_read_routes())


def find_route(verb: str, path: str) -> tuple[Route, dict[str, str]]:
    """Return the route of a request and the variables in its path; raise ApiError."""
    path_exists = False
    for route in routes():
        if match := route.path.fullmatch(path):
            path_exists = True
            if route.verb == verb.lower() and route.request_type is not None:
                variables = zip(route.variables, match.groups(), strict=True)
                return route, {name: unquote(value) for name, value in variables}
    if path_exists:
        raise unimplemented(f"{verb} is not a method of {path}")
    raise ApiError("NOT_FOUND", f"Google publishes no method for {verb} {path}")


def parse_request(verb: str, path: str, query: Mapping[str, list[str]], body: bytes) -> Any:
    """Return a request as a message of Google's type for it.

    Raises:
        ApiError: unknown method, unknown field, value of a wrong type, or missing required field.

    """
    route, variables = find_route(verb, path)
    descriptor = get_descriptor(route.request_type)
    if route.body is None:
        content: dict[str, Any] = {}
        # Google ignores the empty object that some clients send with a GET.
        if body.strip() not in (b"", b"{}"):
            raise invalid_argument(f"{route.rpc} has no body")
    else:
        content = _parse_json(body)
        if route.body != "*":
            content = {descriptor.fields_by_name[route.body].json_name: content}
    for name, values in query.items():
        if name not in SYSTEM_PARAMETERS and not name.startswith("$."):
            _set_field(content, descriptor, name.split("."), values)
    for name, value in variables.items():
        _set_field(content, descriptor, name.split("."), [value])
    request = _parse_message(route.request_type, content)
    # Cloud Build's methods have two paths each: the variables of the other path are not required.
    optional = {name for other in routes() if other.rpc == route.rpc for name in other.variables}
    # An update has only the fields that its mask names.
    recursive = "update_mask" not in descriptor.fields_by_name
    _check_required(request, route.request_type, "", recursive=recursive, optional=optional)
    return request


def to_json(value: Any) -> dict[str, Any]:
    """Return a message as the JSON of Google's REST APIs."""
    content: dict[str, Any] = json_format.MessageToDict(to_protobuf(value))
    return content


def to_protobuf(value: Any) -> message.Message:
    """Return the protobuf message of a proto-plus or protobuf message."""
    protobuf: message.Message = type(value).pb(value) if isinstance(value, proto.Message) else value
    return protobuf


def get_descriptor(message_type: Any) -> Descriptor:
    """Return the descriptor of a proto-plus or protobuf class."""
    is_proto_plus = issubclass(message_type, proto.Message)
    descriptor: Descriptor = (message_type.pb() if is_proto_plus else message_type).DESCRIPTOR
    return descriptor


def _read_routes() -> Iterator[Route]:
    for package, modules in SERVICES.items():
        for module in modules.split():
            service = module.title().replace("_", "")
            base = import_module(f"{package}.services.{module}.transports.rest_base")
            transport = getattr(base, f"_Base{service}RestTransport")
            for name in dir(transport):
                get_options = getattr(getattr(transport, name), "_get_http_options", None)
                rpc = name.removeprefix("_Base")
                if get_options and rpc != name and not MIXED_IN.fullmatch(rpc):
                    for option in get_options():
                        verb, uri, body = option["method"], option["uri"], option.get("body")
                        yield _route(package, rpc, verb, uri, body)
    for extra in EXTRA_ROUTES:
        yield _route(*extra)


def _route(package: str, rpc: str, verb: str, template: str, body: str | None) -> Route:
    variables: list[str] = []

    def to_group(match: re.Match[str]) -> str:
        variables.append(match[1])
        return "(" + (match[2] or "*").replace("**", ".+").replace("*", "[^/:]+") + ")"

    template = template.replace(":", r"\:").replace("$", r"\$")
    pattern = re.compile(re.sub(r"\{([a-z_.]+)(?:=([^}]+))?\}", to_group, template))
    return Route(rpc, verb, pattern, tuple(variables), body, _request_type(package, rpc))


def _request_type(package: str, rpc: str) -> Any:
    if rpc == "TestIamPermissions":
        package = IAM
    return getattr(import_module(package), f"{rpc}Request", None)


def _parse_json(body: bytes) -> Any:
    try:
        return json.loads(body or b"{}")
    except ValueError as error:
        raise invalid_argument(f"{INVALID_JSON} {error}") from None


def _set_field(content: Any, descriptor: Descriptor, path: list[str], values: list[str]) -> None:
    """Set a field from the query or the path in the JSON of a request."""
    for index, name in enumerate(path):
        field = descriptor.fields_by_name.get(name) or descriptor.fields_by_camelcase_name.get(name)
        if field is None:
            full_name = ".".join(path)
            raise invalid_argument(
                f'{INVALID_JSON} Unknown name "{full_name}": Cannot bind query parameter. '
                f"Field '{full_name}' could not be found in request message."
            )
        if index == len(path) - 1:
            if not isinstance(content, dict):
                raise invalid_argument("Invalid value: expected an object")
            value = values if field.is_repeated else _parse_value(field, values[-1])
            content[field.json_name] = value
        else:
            content = content.setdefault(field.json_name, {})
            descriptor = field.message_type


def _parse_value(field: FieldDescriptor, text: str) -> Any:
    if field.message_type and field.message_type.full_name == "google.protobuf.FieldMask":
        # Google accepts snake_case and camelCase, protobuf's parser camelCase only.
        return re.sub("_([a-z])", lambda match: match[1].upper(), text)
    if field.type == FieldDescriptor.TYPE_BOOL:
        return {"true": True, "false": False}.get(text.lower(), text)
    if field.type == FieldDescriptor.TYPE_ENUM and text.isdigit():
        return int(text)
    return text


def _parse_message(message_type: Any, content: dict[str, Any]) -> Any:
    try:
        if not issubclass(message_type, proto.Message):
            return json_format.ParseDict(content, message_type())
        protobuf: message.Message = message_type.pb()()
        json_format.ParseDict(content, protobuf)
        return message_type.wrap(protobuf)
    except json_format.ParseError as error:
        raise invalid_argument(f"{INVALID_JSON} {_to_google_message(error)}") from None


def _to_google_message(error: json_format.ParseError) -> str:
    """Return Google's message for an unknown field, and protobuf's for any other error."""
    unknown = re.search(r'has no field named "([^"]+)" at "([^"]+)"', str(error))
    if unknown is None:
        return str(error)
    parent = unknown[2].partition(".")[2]
    location = f" at '{parent}'" if parent else ""
    return f'Unknown name "{unknown[1]}"{location}: Cannot find field.'


def _check_required(
    request: Any, message_type: Any, prefix: str, *, recursive: bool, optional: Collection[str] = ()
) -> None:
    """Raise ApiError if a field is missing whose documentation begins with Required."""
    if not issubclass(message_type, proto.Message):
        return
    protobuf = message_type.pb(request)
    required = required_fields(message_type) - set(optional)
    for field in protobuf.DESCRIPTOR.fields:
        name = f"{prefix}{field.name}"
        if not _is_set(protobuf, field):
            # An enum's first value is not serialized, so it looks like a missing one.
            if field.name in required and field.type != FieldDescriptor.TYPE_ENUM:
                raise invalid_argument(f"Required field is not set: {name}.")
            continue
        fields = message_type.meta.fields
        inner = fields[field.name].message if field.name in fields else None
        if not recursive or not isinstance(inner, type) or not issubclass(inner, proto.Message):
            continue
        value = getattr(request, field.name)
        if not field.is_repeated:
            _check_required(value, inner, f"{name}.", recursive=True)
        elif not field.message_type.GetOptions().map_entry:
            for index, item in enumerate(value):
                _check_required(item, inner, f"{name}[{index}].", recursive=True)


def _is_set(protobuf: message.Message, field: FieldDescriptor) -> bool:
    if field.has_presence:
        return bool(protobuf.HasField(field.name))
    value = getattr(protobuf, field.name)
    return bool(value) if field.is_repeated else bool(value != field.default_value)


@cache
def required_fields(message_type: Any) -> frozenset[str]:
    """Return the fields of a type whose documentation begins with Required."""
    pattern = re.compile(r"^ {8}(\w+) \([^\n]*\):\n +Required\.", re.MULTILINE)
    return frozenset(pattern.findall(message_type.__doc__ or ""))
