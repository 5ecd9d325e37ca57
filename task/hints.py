"""Turn Python's type hints into OpenAPI 3.0 schemas."""

import types
from collections.abc import Iterable, Mapping
from typing import (
    Annotated,
    Any,
    Literal,
    NotRequired,
    Required,
    Union,
    get_args,
    get_origin,
    get_type_hints,
    is_typeddict,
)

TYPES: dict[Any, str] = {
    str: "string",
    bool: "boolean",
    int: "integer",
    float: "number",
    list: "array",
    tuple: "array",
    dict: "object",
}


def schema_of_hint(hint: Any) -> dict[str, Any]:
    """Return the schema of a type hint, or {} for a type that JSON values do not have."""
    if hint in TYPES:
        return {"type": TYPES[hint]}
    if is_typeddict(hint):
        return _schema_of_typeddict(hint)
    return _schema_of_generic(get_origin(hint), get_args(hint))


def _schema_of_generic(origin: Any, arguments: tuple[Any, ...]) -> dict[str, Any]:
    schema: dict[str, Any] = {}
    if origin is Literal:
        kinds = {TYPES.get(type(value)) for value in arguments}
        kind = {"type": kinds.pop()} if len(kinds) == 1 and None not in kinds else {}
        schema = {**kind, "enum": list(arguments)}
    elif origin is Annotated:
        text = [extra for extra in arguments[1:] if isinstance(extra, str)]
        description = {"description": text[0]} if text else {}
        schema = {**schema_of_hint(arguments[0]), **description}
    elif origin in (Required, NotRequired):
        schema = schema_of_hint(arguments[0])
    elif origin in (Union, types.UnionType):
        schema = _schema_of_union(arguments)
    elif isinstance(origin, type) and issubclass(origin, Mapping):
        values = schema_of_hint(arguments[1]) if len(arguments) > 1 else {}  # Counter[str]
        schema = {"type": "object", **({"additionalProperties": values} if values else {})}
    elif isinstance(origin, type) and issubclass(origin, Iterable):
        kinds_of_items = [schema_of_hint(each) for each in arguments if each is not Ellipsis]
        same = all(each == kinds_of_items[0] for each in kinds_of_items)
        items = kinds_of_items[0] if same and kinds_of_items else {}
        schema = {"type": "array", **({"items": items} if items else {})}
    return schema


def _schema_of_union(arguments: tuple[Any, ...]) -> dict[str, Any]:
    kinds = [each for each in arguments if each not in (types.NoneType, bytes)]  # bytes: a raw body
    nullable = {"nullable": True} if types.NoneType in arguments else {}
    options = [schema_of_hint(each) for each in kinds]
    if {} in options or not options:
        return {}
    if {"type": "number"} in options:  # float includes int
        options = [each for each in options if each != {"type": "integer"}]
    return {**options[0], **nullable} if len(options) == 1 else {"anyOf": options, **nullable}


def _schema_of_typeddict(hint: Any) -> dict[str, Any]:
    fields = get_type_hints(hint, include_extras=True)
    required = [name for name in fields if name in hint.__required_keys__]
    properties = {name: schema_of_hint(each) for name, each in fields.items()}
    if properties.get("b64") == {"type": "string"}:
        properties["b64"]["format"] = "byte"
    return {
        "type": "object",
        "properties": properties,
        **({"required": required} if required else {}),
    }
