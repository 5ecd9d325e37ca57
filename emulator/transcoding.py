"""Transcoding between HTTP and Google's published message types.

Routes and types come from Google's own clients, and the rules of fields from the documentation of the types.

Requests to v1beta1 of Vertex AI are checked against its types, and become messages of v1, which have the same
fields under the same numbers. Fields that only v1beta1 has are kept as unknown fields, so responses have them.
"""

import json
import re
from collections.abc import Mapping
from importlib import import_module
from typing import Any

import proto
from google.cloud import aiplatform_v1 as v1
from google.protobuf import json_format, message
from google.protobuf.descriptor import Descriptor, FieldDescriptor

from emulator.errors import invalid_argument
from emulator.field_rules import check_request
from emulator.routes import V1BETA1, find_route, is_beta, routes

SYSTEM_PARAMETERS = frozenset(
    {"alt", "$alt", "key", "fields", "prettyPrint", "quotaUser", "access_token", "callback"}
)
INVALID_JSON = "Invalid JSON payload received."


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
        content = parse_json(body)
        if route.body != "*":
            content = {descriptor.fields_by_name[route.body].json_name: content}
    for name, values in query.items():
        if name not in SYSTEM_PARAMETERS and not name.startswith("$."):
            _set_field(content, descriptor, name.split("."), values)
    for name, value in variables.items():
        _set_field(content, descriptor, name.split("."), [value])
    request = _parse_message(route.request_type, content)
    beta = is_beta(path)
    # Cloud Build's methods have two paths each: the variables of the other path are not required.
    same = (other for other in routes(beta=beta) if other.rpc == route.rpc)
    optional = {name for other in same for name in other.variables}
    check_request(request, route.request_type, optional=optional)
    return to_v1(request) if beta else request


def to_v1(value: Any) -> Any:
    """Return a message of v1beta1 as a message of v1."""
    return getattr(v1, type(value).__name__).deserialize(type(value).serialize(value))


def to_beta(value: Any) -> Any:
    """Return a message of Vertex AI's v1 as one of v1beta1, and any other message as it is."""
    name = type(value).__name__
    if getattr(v1, name, None) is not type(value):
        return value
    return getattr(import_module(V1BETA1), name).deserialize(type(value).serialize(value))


def to_json(value: Any, *, beta: bool = False) -> dict[str, Any]:
    """Return a message as the JSON of Google's REST APIs."""
    content: dict[str, Any] = json_format.MessageToDict(
        to_protobuf(to_beta(value) if beta else value)
    )
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


def parse_json(body: bytes) -> Any:
    """Return the JSON of a request's body, by default an empty object; raise ApiError."""
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
