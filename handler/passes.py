"""Run samples through the model together, and find those that make a pass fail."""

import logging
from collections.abc import Sequence
from typing import Any, NamedTuple

from handler.collation import build_batch, measure, plan_passes
from handler.device_memory import is_out_of_memory, release_memory
from handler.failures import Failures, describe_exception
from handler.splitting import split_output
from task import BadInstance, BadParameter, Sample
from task.adapter import AdaptedTask

log = logging.getLogger(__name__)


class Failure(NamedTuple):
    """The exception that a task raised for one sample."""

    step: str
    error: Exception


def run_passes(
    task: AdaptedTask, samples: Sequence[Sample], failures: Failures, *, is_isolating: bool = True
) -> list[Any | Failure]:
    """Return for each sample the output of `inference`, or its Failure.

    If a pass fails, each of its samples runs alone, unless `is_isolating` is false: then all of them fail. If the
    device has too little memory for it, it runs again in halves. The caller turns gradients off.
    """
    results: list[Any | Failure] = [None] * len(samples)
    indexes = list(range(len(samples)))
    sizes: list[Any] | None = None
    if task.size is not None:
        sizes = [_measure(task, sample) for sample in samples]
        indexes = [index for index in indexes if not isinstance(sizes[index], Failure)]
        results = [each if isinstance(each, Failure) else None for each in sizes]
        failures.has_any |= len(indexes) < len(samples)
    for group in plan_passes(task, samples, indexes, sizes, task.max_samples):
        outputs = _run_pass(task, [samples[index] for index in group], failures, is_isolating)
        for index, output in zip(group, outputs, strict=True):
            results[index] = output
    return results


def _measure(task: AdaptedTask, sample: Sample) -> Any | Failure:
    try:
        return measure(task, sample)
    except Exception as error:  # noqa: BLE001  a task may raise anything; it is logged later
        return Failure("size", error)


def _run_pass(
    task: AdaptedTask, samples: list[Sample], failures: Failures, is_isolating: bool
) -> list[Any | Failure]:
    try:
        return split_output(task.inference(build_batch(task, samples)), len(samples))
    except Exception as error:  # noqa: BLE001  a task may raise anything; it is logged here or later
        if has_no_memory := is_out_of_memory(error):
            release_memory(error)  # the passes of other samples need the memory
        if len(samples) == 1 or not (is_isolating or has_no_memory):
            failures.has_any = True
            return [Failure("inference", error)] * len(samples)
        if has_no_memory:
            return _run_halves(task, samples, failures, is_isolating, describe_exception(error))
        results = [_run_pass(task, [sample], failures, is_isolating)[0] for sample in samples]
        failed = sum(isinstance(result, Failure) for result in results)
        if isinstance(error, (BadInstance, BadParameter)):
            pass  # a client's fault
        elif failed:
            text = "a batch of %d samples failed, then %d of them alone: %s"
            log.warning(text, len(samples), failed, describe_exception(error))
        else:
            text = (
                f"inference failed on a batch of {len(samples)} samples, but on none of them alone"
            )
            failures.log_once(text, error)
        return results


def _run_halves(
    task: AdaptedTask, samples: list[Sample], failures: Failures, is_isolating: bool, reason: str
) -> list[Any | Failure]:
    """Run the samples of a pass that needed too much memory in two passes.

    If that is enough, later passes are smaller for good; not because of one sample that is too large even alone.
    """
    half = (len(samples) + 1) // 2
    results = [
        output
        for part in (samples[:half], samples[half:])
        for output in _run_pass(task, part, failures, is_isolating)
    ]
    if not any(_is_out_of_memory(result) for result in results):
        task.max_samples = min(task.max_samples or half, half)
        log.warning(
            "a pass of %d samples needs more memory than the device has; from now on a pass has at most %d: %s",
            *(len(samples), task.max_samples, reason),
        )
    return results


def _is_out_of_memory(result: Any | Failure) -> bool:
    return isinstance(result, Failure) and is_out_of_memory(result.error)
