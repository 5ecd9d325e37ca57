"""The golden instance: a model is served only if it still predicts what it predicted after training."""

import json
from typing import Any

from handler import batch, envelope
from task import JSON, Task


class GoldenMismatchError(Exception):
    """The model runs, but its prediction for the golden instance is wrong."""


def request(task: Task) -> dict[str, JSON]:
    """Return a request with the golden instance, as a client would send it."""
    return {"instances": [task.golden.instance]}


def check(task: Task) -> None:
    """Run the golden instance from request to response; raise GoldenMismatchError if it is wrong.

    It also warms the worker up, so that no client waits for the first pass.
    """
    [response] = batch.predict_batch(task, [envelope.parse_document(request(task))])
    document: dict[str, Any] = json.loads(response.body)
    prediction = document["predictions"][0] if "predictions" in document else document
    if not matches(prediction, task.golden.expected):
        expected = task.golden.expected
        raise GoldenMismatchError(f"golden instance: expected {expected}, got {prediction}")


def matches(prediction: JSON, expected: JSON) -> bool:
    """Return whether a prediction has everything that is expected; an object may have more keys."""
    if isinstance(prediction, dict) and isinstance(expected, dict):
        missing = expected.keys() - prediction.keys()
        return not missing and all(matches(prediction[key], expected[key]) for key in expected)
    return bool(prediction == expected)
