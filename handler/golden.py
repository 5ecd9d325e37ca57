"""Check a loaded model by the requests whose predictions are known.

A model is served only if it still predicts what it predicted when its requests.json was written.
"""

import json
import logging
from collections.abc import Sequence
from http import HTTPStatus

from handler import batch, comparison, envelope
from handler.envelope import Response
from task import JSON
from task.adapter import AdaptedTask
from task.requests_file import Example

MAX_REPORTED = 3
"""The differences that an error lists."""

log = logging.getLogger(__name__)


class GoldenMismatchError(Exception):
    """A prediction is not the expected one, or there is none. The text names the request."""


def check(
    task: AdaptedTask, examples: Sequence[Example] | None = None, *, each_alone: bool = False
) -> list[str]:
    """Run examples, by default the task's own, from request to response; raise GoldenMismatchError.

    The first runs alone, then all of them in one batch. With `each_alone` every one runs alone, and the batch
    has each of them twice, so that samples of different shapes are batched too. Returns the names of the
    examples whose predictions are not compared. The predictions complete the task's schema. The check also
    warms the worker up for the first client.
    """
    examples = task.examples if examples is None else examples
    if not examples:
        raise GoldenMismatchError(
            "the model has no requests.json: write two or more requests into it, "
            '[{"instance": …, "parameters": …}, …]'
        )
    predictions = [
        _compare(example, _predict(task, [example])[0], "")
        for example in (examples if each_alone else examples[:1])
    ]
    together = [*examples, *examples] if each_alone else examples
    if len(together) > 1:
        responses = zip(together, _predict(task, together), strict=True)
        predictions = [_compare(*each, " in one batch with the others") for each in responses]
    task.schema.observe(predictions)
    unchecked = [example.name for example in examples if not example.has_check]
    if unchecked:
        log.warning("without `expected`, so not compared: %s", ", ".join(unchecked))
    return unchecked


def _predict(task: AdaptedTask, examples: Sequence[Example]) -> list[Response]:
    requests = [envelope.parse_document(example.body) for example in examples]
    return batch.predict_batch(task, requests, is_isolating=False)


def _compare(example: Example, response: Response, how: str) -> JSON:
    """Return the prediction; raise GoldenMismatchError if it is not the expected one."""
    document = json.loads(response.body)
    if response.code is not HTTPStatus.OK:
        cause = f": {response.cause}" if response.cause else ""
        reason = f"{document['error']['message']}{cause}"
        raise GoldenMismatchError(f"{example.name}{how}: no prediction: {reason}")
    [prediction] = document["predictions"]
    if example.has_check:
        found = comparison.find_differences(prediction, example.expected, example.tolerance)
        if found:
            more = f"; and {len(found) - MAX_REPORTED} more" if len(found) > MAX_REPORTED else ""
            listed = "; ".join(found[:MAX_REPORTED]) + more
            raise GoldenMismatchError(f"{example.name}{how}: {listed}")
    return prediction
