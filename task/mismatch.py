"""Compare a JSON value with a schema, and describe the first difference to the client."""

import json
from collections.abc import Iterator
from typing import Any

MAX_KEYS = 6
"""Keys that a message lists."""
PYTHON_TYPES: dict[str, tuple[type, ...]] = {
    "string": (str,),
    "boolean": (bool,),
    "number": (int, float),
    "integer": (int, float),
    "array": (list,),
    "object": (dict,),
}


def find_mismatch(schema: dict[str, Any], value: Any) -> str | None:
    """Return how a value differs from a schema, such as "age: expected a number; got a string", or None."""
    return next(_find(schema, value, ""), None)


def convert_integers(schema: dict[str, Any], value: Any) -> Any:
    """Return a matching value with whole floats as int where the schema has integers.

    Vertex AI's Python SDK sends every number as a float.
    """
    if schema.get("type") == "integer" and isinstance(value, float):
        return int(value)
    if isinstance(value, dict) and "properties" in schema:
        fields = schema["properties"]
        return {key: convert_integers(fields.get(key, {}), each) for key, each in value.items()}
    if isinstance(value, list) and "integer" in json.dumps(schema.get("items", {})):
        return [convert_integers(schema["items"], each) for each in value]
    return value


def describe_schema(schema: dict[str, Any]) -> str:
    """Return a schema in words: "a number", or "an object {"text": string}"."""
    text = _describe(schema)
    if text.startswith(("one of", "any", "null")) or " or " in text:
        return text
    return f"an {text}" if text[0] in "aeiou" else f"a {text}"


def _find(schema: dict[str, Any], value: Any, path: str) -> Iterator[str]:
    place = f"{path.lstrip('.')}: " if path else ""
    if not schema or (value is None and schema.get("nullable")):
        return
    if not _has_type(schema, value):
        got = json.dumps(value)[:40] if "enum" in schema else _describe_value(value)
        yield f"{place}expected {describe_schema(schema)}; got {got}"
    elif isinstance(value, dict):
        yield from _find_in_object(schema, value, path)
    elif isinstance(value, list) and schema.get("items"):
        items = schema["items"]
        if items.get("type") == "number" and {*map(type, value)} <= {int, float}:
            return  # the common case of many numbers
        for index, item in enumerate(value):
            yield from _find(items, item, f"{path}[{index}]")


def _find_in_object(schema: dict[str, Any], value: dict[str, Any], path: str) -> Iterator[str]:
    fields, more = schema.get("properties", {}), schema.get("additionalProperties", {})
    for key in schema.get("required", ()):
        if key not in value:
            expected = describe_schema(fields.get(key, {}))
            where = f"{path}.{key}".lstrip(".")
            yield f"{where}: missing; expected {expected}; got {_describe_value(value)}"
    for key, item in value.items():
        where = f"{path}.{key[:40]}"
        if key not in fields and more is False:
            known = ", ".join(fields) or "none"
            yield f"{where.lstrip('.')}: unknown name; expected {known}"
        else:
            yield from _find(fields.get(key, more or {}), item, where)


def _has_type(schema: dict[str, Any], value: Any) -> bool:
    if "anyOf" in schema:
        return any(find_mismatch(option, value) is None for option in schema["anyOf"])
    if "enum" in schema and value not in schema["enum"]:
        return False
    name = schema.get("type")
    if name is None:
        return True
    if isinstance(value, bool) and name != "boolean":
        return False
    is_whole = not isinstance(value, float) or value.is_integer()
    return isinstance(value, PYTHON_TYPES[name]) and (name != "integer" or is_whole)


def _describe(schema: dict[str, Any]) -> str:
    if "enum" in schema:
        text = "one of " + ", ".join(json.dumps(value) for value in schema["enum"])
    elif "anyOf" in schema:
        text = " or ".join(_describe(option) for option in schema["anyOf"])
    elif schema.get("type") == "array":
        items = schema.get("items", {})
        plain = items.get("type") if "enum" not in items else None
        text = f"array of {_describe_items(items)}" if plain else "array"
    elif schema.get("properties"):
        required, fields = schema.get("required", ()), schema["properties"]
        parts = [
            f'"{key}"{"" if key in required else "?"}: {_describe(field)}'
            for key, field in list(fields.items())[:MAX_KEYS]
        ]
        text = f"object {{{', '.join(parts + ['...'] * (len(fields) > MAX_KEYS))}}}"
    else:
        text = schema.get("type") or "any value"
    return f"{text} or null" if schema.get("nullable") else text


def _describe_items(items: dict[str, Any]) -> str:
    name, _, rest = _describe(items).partition(" ")
    return f"{name}s {rest}".rstrip()


def _describe_value(value: Any) -> str:
    if value is None:
        return "null"
    if isinstance(value, dict):
        if not value:
            return "an empty object"
        keys = json.dumps([key[:20] for key in list(value)[:MAX_KEYS]])
        return f"an object with the keys {keys}"
    names = {list: "an array", str: "a string", bool: "a boolean"}
    return names.get(type(value), "a number")
