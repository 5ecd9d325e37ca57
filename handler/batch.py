"""Run the instances of many requests through the model in one pass.

A failure affects only the instance that caused it: every other instance gets its prediction.
"""

import logging
import time
from collections.abc import Callable, Iterable, Iterator
from typing import NamedTuple

import torch
from torch import Tensor

from handler import envelope
from handler.envelope import Request, Response
from handler.error_report import find_request_error
from handler.errors import InternalError, InvalidArgumentError, RequestError
from handler.preprocessing import Preprocessed, preprocess_requests
from task import JSON, BadParameter, Task

MAX_INSTANCES_PER_PASS = 512
"""A larger batch takes several passes, because a pass needs memory for each of its instances."""

log = logging.getLogger(__name__)


class Timings(NamedTuple):
    """When the steps of a batch began and ended, in nanoseconds since 1970."""

    preprocessing_start_ns: int
    """Parsing and preprocessing began."""
    inference_start_ns: int
    """Preprocessing ended and inference began."""
    postprocessing_start_ns: int
    """Inference ended and postprocessing began."""
    end_ns: int
    instances: int
    """The number of instances in the passes."""


def predict_batch(
    task: Task,
    requests: Iterable[Request | RequestError],
    on_timings: Callable[[Timings], None] | None = None,
) -> list[Response]:
    """Return a response for each request, in their order.

    A request that could not be parsed is passed as its error. If `requests` is a generator that parses,
    the timings include parsing.
    """
    preprocessing_start_ns = time.time_ns()
    preprocessed = preprocess_requests(task, list(requests))
    tensors = [
        tensor
        for request in preprocessed
        if isinstance(request, Preprocessed)
        for tensor in request.tensors
        if isinstance(tensor, Tensor)
    ]
    inference_start_ns = time.time_ns()
    rows = iter(_run_passes(task, tensors))
    postprocessing_start_ns = time.time_ns()
    responses = [_build_response(task, request, rows) for request in preprocessed]
    if on_timings is not None:
        starts_ns = (preprocessing_start_ns, inference_start_ns, postprocessing_start_ns)
        on_timings(Timings(*starts_ns, time.time_ns(), len(tensors)))
    return responses


def _run_passes(task: Task, tensors: list[Tensor]) -> list[Tensor | RequestError]:
    rows: list[Tensor | RequestError] = []
    for start in range(0, len(tensors), MAX_INSTANCES_PER_PASS):
        rows += _run_pass(task, tensors[start : start + MAX_INSTANCES_PER_PASS])
    return rows


def _run_pass(task: Task, tensors: list[Tensor]) -> list[Tensor | RequestError]:
    """Return a row for each tensor. If the pass fails, run each tensor alone to find those that fail."""
    try:
        with torch.inference_mode():
            rows = task.inference(torch.stack(tensors)).cpu()
        return [row for row, _ in zip(rows, tensors, strict=True)]
    except Exception:  # a task may raise anything
        log.exception("inference failed on %d instances", len(tensors))
        if len(tensors) == 1:
            return [InternalError("inference failed")]
    return [row for tensor in tensors for row in _run_pass(task, [tensor])]


def _build_response(
    task: Task, preprocessed: Preprocessed | RequestError, rows: Iterator[Tensor | RequestError]
) -> Response:
    if isinstance(preprocessed, RequestError):
        return envelope.format_error(preprocessed)
    request, tensors = preprocessed
    # Take this request's rows before anything can fail, because those of the next request follow.
    results = [next(rows) if isinstance(each, Tensor) else each for each in tensors]
    if error := find_request_error(request, results):
        return envelope.format_error(error)
    try:
        return envelope.format_predictions([_postprocess(task, row, request) for row in results])
    except RequestError as error:
        return envelope.format_error(error)
    except BadParameter as error:
        return envelope.format_error(InvalidArgumentError(f"parameters.{error}"))
    except Exception:  # a task may raise anything, or return what JSON cannot hold
        log.exception("postprocessing failed")
        return envelope.format_error(InternalError("postprocessing failed"))


def _postprocess(task: Task, row: Tensor | RequestError, request: Request) -> JSON:
    if isinstance(row, RequestError):
        return envelope.error_object(row)
    return task.postprocess(row, request.parameters)
