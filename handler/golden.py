"""The golden instance: a model is served only if it still predicts what it predicted after training."""

import json
import math
from collections.abc import Iterator
from http import HTTPStatus

from handler import batch, envelope
from task import JSON, Task

TOLERANCE = 1e-3
"""The relative tolerance of floats, which differ between CPUs. In an array it is relative to the
largest float, so that a number near zero is not compared more strictly than the others."""
MAX_REPORTED = 3
"""The differences that an error lists."""


class GoldenMismatchError(Exception):
    """The model's prediction for the golden instance is wrong, or there is none."""


def request(task: Task) -> dict[str, JSON]:
    """Return a request with the golden instance, as a client would send it."""
    return {"instances": [task.golden.instance]}


def check(task: Task) -> None:
    """Run the golden instance from request to response; raise GoldenMismatchError if it is wrong.

    It also warms the worker up, so that no client waits for the first pass.
    """
    [response] = batch.predict_batch(task, [envelope.parse_document(request(task))])
    document = json.loads(response.body)
    if response.code is not HTTPStatus.OK:
        raise GoldenMismatchError(f"golden instance: no prediction: {document['error']['message']}")
    differences = find_differences(document["predictions"][0], task.golden.expected)
    if differences:
        more = len(differences) - MAX_REPORTED
        listed = "; ".join(differences[:MAX_REPORTED]) + (f"; and {more} more" if more > 0 else "")
        raise GoldenMismatchError(f"golden instance: {listed}")


def find_differences(prediction: JSON, expected: JSON) -> list[str]:
    """Return how a prediction differs from what is expected, the largest differences of floats first.

    Objects may have more keys than expected. Floats may differ by TOLERANCE.
    """
    found = sorted(_compare(prediction, expected, "", 0), key=lambda each: -each[0])
    return [text for _, text in found]


def _compare(
    prediction: JSON, expected: JSON, path: str, scale: float
) -> Iterator[tuple[float, str]]:
    """Yield the size and the description of each difference; `scale` is the largest float beside it."""
    label = f"{path.lstrip('.')}: " if path else ""
    if isinstance(prediction, dict) and isinstance(expected, dict):
        for key, value in expected.items():
            if key in prediction:
                yield from _compare(prediction[key], value, f"{path}.{key}", 0)
            else:
                yield math.inf, f"{label}expected the key {key}, got {list(prediction)}"
    elif isinstance(prediction, list) and isinstance(expected, list):
        if len(prediction) != len(expected):
            yield math.inf, f"{label}expected {len(expected)} values, got {len(prediction)}"
            return
        scale = max((abs(each) for each in expected if isinstance(each, float)), default=0)
        for index, (got, value) in enumerate(zip(prediction, expected, strict=True)):
            yield from _compare(got, value, f"{path}[{index}]", scale)
    elif _is_float_pair(prediction, expected):
        if not math.isclose(prediction, expected, rel_tol=TOLERANCE, abs_tol=TOLERANCE * scale):
            yield abs(prediction - expected), f"{label}expected {expected}, got {prediction}"
    elif prediction != expected:
        yield math.inf, f"{label}expected {expected}, got {prediction}"


def _is_float_pair(first: JSON, second: JSON) -> bool:
    numbers = all(type(each) in (int, float) for each in (first, second))
    return numbers and float in (type(first), type(second))
