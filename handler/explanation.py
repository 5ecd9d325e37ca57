"""Answer a request by the task's `explain`, called for each instance alone and with gradients.

The explanation of an instance takes the place of its prediction.
"""

import copy
import time
from collections.abc import Callable, Mapping, MutableMapping, Sequence
from typing import Any

import torch
from torch import Tensor

from handler.collation import move
from handler.envelope import Request
from handler.errors import InvalidParameterError, RequestError, ResourceExhaustedError
from handler.failures import Failures
from handler.preprocessing import RESPONSE_TIMEOUT_S, Preprocessed, TimeBudget
from task.adapter import AdaptedTask

EXPLAIN_TIMEOUT_S = 0.8 * RESPONSE_TIMEOUT_S
"""Limit for a request with explanations that is alone, from its start: a response that is too late fails."""
SHARED_EXPLAIN_TIMEOUT_S = 0.4 * RESPONSE_TIMEOUT_S
"""The limit for a batch of several requests: each of them waits for the explanations."""


def start_budget(requests: Sequence[Request | RequestError]) -> TimeBudget:
    """Start the time for the explanations of a batch, which those of its requests that need them share."""
    timeout_s = EXPLAIN_TIMEOUT_S if len(requests) == 1 else SHARED_EXPLAIN_TIMEOUT_S
    explained = sum(isinstance(each, Request) and each.is_explained for each in requests)
    return TimeBudget(explained, timeout_s)


def check_request(task: AdaptedTask, request: Request | RequestError) -> Request | RequestError:
    """Return a request, or the error of one that asks a task without `explain` for an explanation."""
    if isinstance(request, Request) and request.is_explained and task.explain is None:
        return InvalidParameterError(
            "parameters.explain: this model has no explanations: its task does not define "
            "explain(sample, parameters)"
        )
    return request


def explain_samples(
    task: AdaptedTask, preprocessed: Preprocessed, budget: TimeBudget, failures: Failures
) -> list[Any | RequestError]:
    """Return the explanation of each instance, or its error; raise ResourceExhaustedError after the time limit."""
    deadline = budget.next_deadline()
    request, samples = preprocessed
    explanations = []
    for index, (sample, instance) in enumerate(zip(samples, request.instances, strict=True)):
        if index and time.monotonic() > deadline:
            raise ResourceExhaustedError(
                f"instances[{index}]: not explained within the time limit; "
                "send fewer instances in a request, or retry"
            )
        try:
            explained = (
                sample if isinstance(sample, RequestError) else _explain(task, sample, request)
            )
        except Exception as error:  # noqa: BLE001  a task may raise anything; it is logged
            step = "explanation"
            explained = failures.to_request_error(step, error, instance, request.parameters)
        explanations.append(explained)
    return explanations


def _explain(task: AdaptedTask, sample: Any, request: Request) -> Any:
    assert task.explain is not None
    with torch.inference_mode(mode=False), torch.enable_grad():
        sample = _map_tensors(sample, _leave_inference_mode)
        if task.has_accelerator:
            sample = move(sample, task.device)
        # Detached, so that no explanation keeps its graph until the response is complete.
        return _map_tensors(task.explain(sample, request.parameters), Tensor.detach)


def _leave_inference_mode(tensor: Tensor) -> Tensor:
    """Return a tensor that gradients can be computed from: autograd rejects those of inference mode."""
    return tensor.clone() if tensor.is_inference() else tensor


def _map_tensors(value: Any, function: Callable[[Tensor], Tensor]) -> Any:
    """Return a value with the tensors in its mappings, tuples and lists replaced."""
    if isinstance(value, Tensor):
        return function(value)
    if isinstance(value, MutableMapping):
        copied = copy.copy(value)  # of the same class, such as transformers' BatchEncoding
        copied.update({key: _map_tensors(item, function) for key, item in value.items()})
        return copied
    if isinstance(value, Mapping):
        return {key: _map_tensors(item, function) for key, item in value.items()}
    if isinstance(value, tuple):
        items = [_map_tensors(item, function) for item in value]
        return type(value)(*items) if hasattr(value, "_fields") else tuple(items)
    if isinstance(value, list):
        return [_map_tensors(item, function) for item in value]
    return value
