"""Infer an OpenAPI 3.0 schema from example values."""

from collections.abc import Sequence
from typing import Any

TYPES = {str: "string", bool: "boolean", int: "number", float: "number"}


def infer_schema(values: Sequence[Any], labels: Sequence[str] = ()) -> dict[str, Any]:
    """Return a schema that accepts all of these values; {} if there are none.

    Objects whose keys are all labels, or that have no key in common, are maps with any keys.
    """
    objects = [value for value in values if isinstance(value, dict)]
    arrays = [value for value in values if isinstance(value, list)]
    options: list[dict[str, Any]] = []
    if objects:
        options.append(_infer_object(objects, labels))
    if arrays:
        items = infer_schema([item for array in arrays for item in array], labels)
        options.append({"type": "array", **({"items": items} if items else {})})
    names = dict.fromkeys(TYPES[type(value)] for value in values if type(value) in TYPES)
    options += [{"type": name} for name in names]
    nullable = {"nullable": True} if None in values else {}
    if not options:
        return nullable
    return {**options[0], **nullable} if len(options) == 1 else {"anyOf": options, **nullable}


def _infer_object(objects: list[dict[str, Any]], labels: Sequence[str]) -> dict[str, Any]:
    keys = dict.fromkeys(key for each in objects for key in each)
    required = [key for key in keys if all(key in each for each in objects)]
    properties = {
        key: infer_schema([each[key] for each in objects if key in each], labels) for key in keys
    }
    if isinstance(properties.get("b64"), dict) and properties["b64"].get("type") == "string":
        properties["b64"]["format"] = "byte"
    schemas = list(properties.values())
    is_map = keys.keys() <= set(labels) or (len(objects) > 1 and not required)
    if is_map and schemas and all(each == schemas[0] for each in schemas):
        return {"type": "object", "additionalProperties": schemas[0]}
    return {
        "type": "object",
        "properties": properties,
        **({"required": required} if required else {}),
    }
