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
        map_values = _find_map_values(objects, labels)
        if map_values is None:
            options.append(infer_object(objects, labels))
        else:
            options.append({"type": "object", "additionalProperties": map_values})
    if arrays:
        items = infer_schema([item for array in arrays for item in array], labels)
        options.append({"type": "array", **({"items": items} if items else {})})
    names = dict.fromkeys(TYPES[type(value)] for value in values if type(value) in TYPES)
    options += [{"type": name} for name in names]
    nullable = {"nullable": True} if None in values else {}
    if not options:
        return nullable
    return {**options[0], **nullable} if len(options) == 1 else {"anyOf": options, **nullable}


def infer_object(objects: Sequence[dict[str, Any]], labels: Sequence[str] = ()) -> dict[str, Any]:
    """Return a schema with a property for each key of these objects."""
    keys = dict.fromkeys(key for each in objects for key in each)
    required = [key for key in keys if all(key in each for each in objects)]
    properties = {
        key: infer_schema([each[key] for each in objects if key in each], labels) for key in keys
    }
    if properties.get("b64", {}).get("type") == "string":
        properties["b64"]["format"] = "byte"
    return {
        "type": "object",
        "properties": properties,
        **({"required": required} if required else {}),
    }


def _find_map_values(
    objects: Sequence[dict[str, Any]], labels: Sequence[str]
) -> dict[str, Any] | None:
    """Return the schema of the values if the objects are maps of one type, such as label to score."""
    filled = [each for each in objects if each]
    keys = {key for each in filled for key in each}
    has_common_key = any(all(key in each for each in filled) for key in keys)
    if not keys or not (keys <= set(labels) or (len(filled) > 1 and not has_common_key)):
        return None
    schemas = [infer_schema([value], labels) for each in filled for value in each.values()]
    return schemas[0] if all(schema == schemas[0] for schema in schemas) else None
