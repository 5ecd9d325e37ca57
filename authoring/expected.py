"""Write predictions into requests.json as `expected`, and leave the rest of the file as it is."""

import json
import math
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from handler.comparison import MIN_SCALE


def round_prediction(value: Any, tolerance: float, scale: float = 0) -> Any:
    """Return a prediction whose floats have the digits that a comparison with `tolerance` needs.

    `scale` is the largest float beside the value in an array.
    """
    if isinstance(value, dict):
        return {key: round_prediction(each, tolerance) for key, each in value.items()}
    if isinstance(value, list):
        largest = max((abs(each) for each in value if isinstance(each, float)), default=0)
        return [round_prediction(each, tolerance, largest) for each in value]
    if isinstance(value, float) and tolerance:
        allowed = tolerance * max(abs(value), scale, MIN_SCALE)
        # Rounding takes a twentieth of the tolerance.
        return round(value, max(0, math.ceil(-math.log10(allowed / 10))))
    return value


def write_expected(path: Path, expected: Mapping[int, Any]) -> None:
    """Set `expected` of the requests with these indexes."""
    text = path.read_text("utf-8")
    for index, (start, end) in reversed(list(enumerate(_find_requests(text)))):
        if index in expected:
            request = json.loads(text[start:end]) | {"expected": expected[index]}
            text = text[:start] + _format_like(text, start, end, request) + text[end:]
    path.write_text(text, "utf-8")


def _find_requests(text: str) -> list[tuple[int, int]]:
    """Return the start and end of each element of the array in the text."""
    decoder, spans = json.JSONDecoder(), []
    position = text.index("[") + 1
    while text[position:].lstrip(" \t\r\n,")[:1] == "{":
        start = text.index("{", position)
        _, position = decoder.raw_decode(text, start)
        spans.append((start, position))
    return spans


def _format_like(text: str, start: int, end: int, request: dict[str, Any]) -> str:
    """Return a request as JSON: in one line or indented, as the request at this place is."""
    lines = text[start:end].splitlines()
    if len(lines) == 1:
        return json.dumps(request, ensure_ascii=False)
    before = text[:start].rpartition("\n")[2]
    margin = before if before.isspace() else ""
    indent = len(lines[1]) - len(lines[1].lstrip()) - len(margin)
    dumped = json.dumps(request, indent=max(indent, 1), ensure_ascii=False)
    # Arrays of numbers in one line.
    dumped = re.sub(
        r"\[[-\d.eE,\s]+\]",
        lambda found: re.sub(r"\s+", " ", found[0]).replace("[ ", "[").replace(" ]", "]"),
        dumped,
    )
    return dumped.replace("\n", f"\n{margin}")
