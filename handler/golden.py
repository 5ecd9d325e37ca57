"""The golden instance: a model is served only when it answers as it did when it was trained."""

import json
from typing import Any

from handler import batch, envelope
from task import JSON, Task


class GoldenMismatchError(Exception):
    """The model runs, but does not answer its golden instance as it should."""


def request(task: Task) -> dict[str, JSON]:
    """Return the golden instance as a request that any client could send."""
    return {"instances": [task.golden.instance]}


def check(task: Task) -> None:
    """Put the golden instance through the whole path; raise GoldenMismatch if it comes out wrong.

    It also warms the worker up, so that no client waits for the first pass.
    """
    response = batch.predict_batch(task, [lambda: envelope.parse_document(request(task))])[0]
    answer: dict[str, Any] = json.loads(response.body)
    got = answer["predictions"][0] if "predictions" in answer else answer
    if not matches(got, task.golden.expected):
        raise GoldenMismatchError(f"golden instance: expected {task.golden.expected}, got {got}")


def matches(got: JSON, expected: JSON) -> bool:
    """Tell whether a prediction has all that is expected: an object may have more keys."""
    if isinstance(got, dict) and isinstance(expected, dict):
        return all(name in got and matches(got[name], value) for name, value in expected.items())
    return bool(got == expected)
