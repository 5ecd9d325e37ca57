"""Run samples through the model together, and find those that make a pass fail."""

import logging
from collections.abc import Sequence
from typing import Any, NamedTuple

import torch

from handler.collation import build_batch, measure, plan_passes
from handler.errors import InternalError, RequestError
from handler.failures import Failures, describe_exception
from handler.splitting import split_output
from task import JSON, Sample
from task.adapter import AdaptedTask

STEP = "inference"

log = logging.getLogger(__name__)


class Item(NamedTuple):
    """A sample and the instance that it was made from."""

    sample: Sample
    instance: JSON
    parameters: dict[str, JSON]


def run_passes(
    task: AdaptedTask, items: Sequence[Item], failures: Failures, *, is_isolating: bool = True
) -> list[Any | RequestError]:
    """Return for each item the output of `inference`, or the error that its instance gets.

    If a pass fails, each of its samples runs alone, unless `is_isolating` is false: then all of them fail.
    """
    results: list[Any | RequestError] = [None] * len(items)
    sizes: list[float] | None = None
    passed = list(range(len(items)))
    if task.size is not None:
        sizes = [0.0] * len(items)
        for index, item in enumerate(items):
            try:
                sizes[index] = measure(task, item.sample)
            except Exception as error:  # noqa: BLE001  a task may raise anything; it is logged
                results[index] = failures.to_request_error("size", error, *item[1:])
        passed = [index for index in passed if results[index] is None]
        sizes = [sizes[index] for index in passed]
    for plan in plan_passes(task, [items[index].sample for index in passed], sizes):
        indexes = [passed[index] for index in plan]
        outputs = _run_pass(task, [items[index] for index in indexes], failures, is_isolating)
        for index, output in zip(indexes, outputs, strict=True):
            results[index] = output
    return results


def _run_pass(
    task: AdaptedTask, items: list[Item], failures: Failures, is_isolating: bool
) -> list[Any | RequestError]:
    try:
        return _infer(task, [item.sample for item in items])
    except Exception as error:  # noqa: BLE001  a task may raise anything; it is logged
        if len(items) == 1:
            return [failures.to_request_error(STEP, error, *items[0][1:])]
        cause = describe_exception(error)
        if not is_isolating:
            reason = f"{STEP} failed on a batch of {len(items)} samples"
            failures.log_once(reason, error)
            return [InternalError(reason, cause)] * len(items)
        results = [_run_pass(task, [item], failures, is_isolating)[0] for item in items]
        failed = sum(isinstance(result, RequestError) for result in results)
        if failed:
            log.warning(
                "a batch of %d samples failed, then %d of them alone: %s", len(items), failed, cause
            )
        else:
            message = f"{STEP} failed on a batch of {len(items)} samples, but on none of them alone"
            failures.log_once(message, error)
        return results


def _infer(task: AdaptedTask, samples: list[Sample]) -> list[Any]:
    with torch.inference_mode():
        return split_output(task.inference(build_batch(task, samples)), len(samples))
