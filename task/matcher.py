"""Decide quickly whether a JSON value is exactly what a schema describes: the common case of a valid request.

`task.mismatch` decides the other cases, such as a whole float for an integer, and describes what differs.
"""

from collections.abc import Callable
from typing import Any

Match = Callable[[Any], bool]
EXACT_TYPES: dict[str, frozenset[type]] = {
    "string": frozenset({str}),
    "boolean": frozenset({bool}),
    "number": frozenset({int, float}),
    "integer": frozenset({int}),
}


def compile_match(schema: dict[str, Any]) -> Match:
    """Return a function that is true only for values that match a schema and need no conversion."""
    if not schema:
        return lambda _: True
    if schema.get("nullable"):
        match = compile_match({key: each for key, each in schema.items() if key != "nullable"})
        return lambda value: value is None or match(value)
    if _is_scalar(schema):
        types = EXACT_TYPES[schema["type"]]
        return lambda value: type(value) in types
    if schema.get("type") == "array":
        return _match_array(schema.get("items") or {})
    if schema.get("type") == "object" and schema.get("properties"):
        return _match_object(schema["properties"], frozenset(schema.get("required", ())))
    return lambda _: False  # a choice, or an object with any keys


def _match_array(items: dict[str, Any]) -> Match:
    if _is_scalar(items):
        types = EXACT_TYPES[items["type"]]
        return lambda value: type(value) is list and types.issuperset(map(type, value))
    match = compile_match(items)
    return lambda value: type(value) is list and all(map(match, value))


def _match_object(fields: dict[str, Any], required: frozenset[str]) -> Match:
    if all(map(_is_scalar, fields.values())):
        types = {key: EXACT_TYPES[field["type"]] for key, field in fields.items()}
        allowed = frozenset((key, each) for key, kinds in types.items() for each in kinds)
        return lambda value: (
            type(value) is dict
            and required <= value.keys()
            and allowed.issuperset(zip(value, map(type, value.values()), strict=True))
        )
    matches = {key: compile_match(field) for key, field in fields.items()}
    return lambda value: (
        type(value) is dict
        and required <= value.keys() <= matches.keys()
        and all(matches[key](item) for key, item in value.items())
    )


def _is_scalar(schema: dict[str, Any]) -> bool:
    return schema.get("type") in EXACT_TYPES and schema.keys().isdisjoint({"enum", "nullable"})
