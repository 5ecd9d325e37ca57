"""Encode predictions as JSON, with the values that PyTorch code returns: tensors, arrays and bytes."""

import base64
import json
import math
from collections.abc import Iterator
from typing import Any

JSON_TYPES = "None, bool, int, float, str, bytes, list, tuple, dict, tensor or array"


class EncodingError(Exception):
    """A prediction has a value that JSON cannot represent. The text says where, and which."""


def encode_prediction(value: Any) -> str:
    """Return a prediction, or a list of them, as JSON text of ASCII characters; raise EncodingError."""
    try:
        return _ENCODER.encode(value)
    except (TypeError, ValueError, RecursionError) as error:
        reason = next(_find_invalid(value, "", 0), f"the prediction is not JSON: {error}")
        raise EncodingError(reason) from None


def _convert(value: Any) -> Any:
    """Return a JSON value for a value that the encoder does not accept; raise TypeError."""
    if hasattr(value, "tolist"):  # tensors, and numpy's arrays and scalars
        return value.tolist()
    if isinstance(value, (bytes, bytearray, memoryview)):
        return {"b64": base64.b64encode(value).decode()}
    raise TypeError(type(value).__name__)


_ENCODER = json.JSONEncoder(separators=(",", ":"), allow_nan=False, default=_convert)
MAX_DEPTH = 100


def _find_invalid(value: Any, path: str, depth: int) -> Iterator[str]:
    """Yield a description of each part that JSON cannot represent."""
    place = path.lstrip(".") or "the prediction"
    if depth > MAX_DEPTH:
        yield f"{path[:100]} is nested too deeply"
    elif isinstance(value, dict):
        for key, item in value.items():
            if key is None or isinstance(key, (str, int, float)):
                yield from _find_invalid(item, f"{path}.{key}", depth + 1)
            else:
                yield f"{place} has the key {key!r}, a {type(key).__name__}; expected a string"
    elif isinstance(value, (list, tuple)):
        for index, item in enumerate(value):
            yield from _find_invalid(item, f"{path}[{index}]", depth + 1)
    elif isinstance(value, float):
        if not math.isfinite(value):
            name = "NaN" if math.isnan(value) else "Infinity"
            yield f"{place} is {name}, which JSON cannot represent"
    elif not (value is None or isinstance(value, (str, int))):
        try:
            converted = _convert(value)
        except TypeError:
            yield f"{place} is of type {type(value).__name__}; expected {JSON_TYPES}"
        else:
            yield from _find_invalid(converted, path, depth + 1)
