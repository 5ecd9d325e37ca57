"""Many requests, one pass: their instances go through the model together and back to their owners.

A request's fate is its own. What cannot be read is told to the one who sent it; the rest
are answered as if it had not been there.
"""

import logging
import threading
import time
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor
from typing import NamedTuple, TypeVar

import torch
from torch import Tensor

from handler import envelope
from handler.envelope import Request, Response
from handler.errors import Internal, InvalidArgument, RequestError, ResourceExhausted
from task import JSON, BadInstance, BadParameter, Task

MAX_INSTANCES_PER_PASS = 512
"""Instances in one forward pass. A larger batch takes several passes: memory grows with a pass."""
PREPROCESS_TIMEOUT_S = 30
"""Seconds that reading a batch's instances may take in all: TorchServe ends a worker that does
not answer within 50, and every request in the batch with it."""
SHARED_PREPROCESS_TIMEOUT_S = 10
"""The same where there are several requests in the batch: the others wait for the longest."""
MAX_REASON_CHARS = 1000
"""Characters of a bad instance's reason where several are told."""
MAX_REPORTED = 20
"""Bad instances of one request whose reasons are told; of the others the indexes are."""

log = logging.getLogger(__name__)
T = TypeVar("T")
R = TypeVar("R")
_POOL = ThreadPoolExecutor(torch.get_num_threads(), thread_name_prefix="reader")

Read = Callable[[], Request]
"""Gives a request, or raises RequestError."""
Prepared = tuple[Request, list[Tensor | RequestError]]
"""A request, and for each of its instances the tensor for the model or why there is none."""


class Timings(NamedTuple):
    """When the stages of a batch followed one another, in nanoseconds since 1970."""

    began: int
    """Bodies are parsed and instances decoded from here on."""
    decoded: int
    """The model is at them from here on."""
    passed: int
    """Answers are written from here on."""
    ended: int
    instances: int
    """How many went through the model."""


def predict_batch(
    task: Task, reads: Iterable[Read], tell: Callable[[Timings], None] | None = None
) -> list[Response]:
    """Answer requests that came together, in their order, with one pass through the model.

    `tell` is told how long that took.
    """
    began = time.time_ns()
    prepared = _prepare_all(task, [_read(read) for read in reads])
    tensors = [
        tensor
        for entry in prepared
        if not isinstance(entry, RequestError)
        for tensor in entry[1]
        if isinstance(tensor, Tensor)
    ]
    decoded = time.time_ns()
    rows = iter(_infer(task, tensors))
    passed = time.time_ns()
    responses = [_respond(task, entry, rows) for entry in prepared]
    if tell is not None:
        tell(Timings(began, decoded, passed, time.time_ns(), len(tensors)))
    return responses


def _read(read: Read) -> Request | RequestError:
    try:
        return read()
    except RequestError as error:
        return error.with_traceback(None)  # which holds on to all that was parsed


def _prepare_all(
    task: Task, requests: list[Request | RequestError]
) -> list[Prepared | RequestError]:
    """Preprocess the instances of each request, the smallest request first.

    Each may take its share of the time that is left: one that asks for minutes of work, say
    by a thousand pictures that are small as files and huge as pixels, spends only its own.
    """
    ends = time.monotonic() + (
        PREPROCESS_TIMEOUT_S if len(requests) == 1 else SHARED_PREPROCESS_TIMEOUT_S
    )
    sizes = [len(r.instances) if isinstance(r, Request) else 0 for r in requests]
    by_size = sorted(range(len(requests)), key=sizes.__getitem__)
    left = len(requests)

    def prepare(index: int) -> Prepared | RequestError:
        nonlocal left
        request, now = requests[index], time.monotonic()
        until, left = now + (ends - now) * _threads(left) / left, left - 1
        return _prepare(task, request, until) if isinstance(request, Request) else request

    prepared = dict(zip(by_size, _map_parallel(prepare, by_size), strict=True))
    return [prepared[index] for index in range(len(requests))]


def _prepare(task: Task, request: Request, until: float) -> Prepared | RequestError:
    def preprocess(item: tuple[int, JSON]) -> Tensor | RequestError:
        index, instance = item
        if index and time.monotonic() > until:
            raise ResourceExhausted(
                f"instances[{index}]: not reached: reading those before it took too long; "
                "send fewer or smaller ones in a request, or try again"
            )
        return _preprocess(task, instance)

    try:
        instances = _map_parallel(preprocess, list(enumerate(request.instances)))
    except ResourceExhausted as error:
        return error.with_traceback(None)
    return _reject_whole(request, instances) or (request, instances)


def _map_parallel(work: Callable[[T], R], items: list[T]) -> list[R]:
    """Do some work for every item, in their order, on as many threads as the model itself has.

    Decoders let other threads run while they work. What a thread is given is done within it.
    """
    if _threads(len(items)) == 1 or threading.current_thread() is not threading.main_thread():
        return [work(item) for item in items]
    return list(_POOL.map(work, items))


def _threads(most: int) -> int:
    return min(torch.get_num_threads(), most)


def _preprocess(task: Task, instance: JSON) -> Tensor | RequestError:
    try:
        return task.preprocess(instance)
    except BadInstance as error:
        return InvalidArgument(str(error))
    except Exception:  # whatever a task gets wrong with one instance must not reach its neighbours
        log.exception("preprocess failed")
        return Internal("the model failed to read it")


def _infer(task: Task, tensors: list[Tensor]) -> list[Tensor | RequestError]:
    rows: list[Tensor | RequestError] = []
    for start in range(0, len(tensors), MAX_INSTANCES_PER_PASS):
        rows += _pass(task, tensors[start : start + MAX_INSTANCES_PER_PASS])
    return rows


def _pass(task: Task, tensors: list[Tensor]) -> list[Tensor | RequestError]:
    try:
        with torch.inference_mode():
            rows = task.inference(torch.stack(tensors)).cpu()
        return [row for row, _ in zip(rows, tensors, strict=True)]
    except Exception:  # as in _preprocess
        log.exception("inference failed on %d instances", len(tensors))
        if len(tensors) == 1:
            return [Internal("the model failed on it")]
    # One of them may have brought all down: each gets a pass of its own.
    return [row for tensor in tensors for row in _pass(task, [tensor])]


def _respond(
    task: Task, entry: Prepared | RequestError, rows: Iterator[Tensor | RequestError]
) -> Response:
    if isinstance(entry, RequestError):
        return envelope.failure(entry)
    request, instances = entry
    # Every row is taken from the iterator before anything can fail: the next request's follow.
    outcomes = [next(rows) if isinstance(one, Tensor) else one for one in instances]
    error = _reject_whole(request, outcomes)
    if error is not None:
        return envelope.failure(error)
    try:
        return envelope.predictions([_postprocess(task, one, request) for one in outcomes])
    except RequestError as fault:
        return envelope.failure(fault)
    except BadParameter as fault:
        return envelope.failure(InvalidArgument(f"parameters.{fault}"))
    except Exception:  # as in _preprocess
        log.exception("postprocess failed")
        return envelope.failure(Internal("the model's answer could not be written"))


def _postprocess(task: Task, outcome: Tensor | RequestError, request: Request) -> JSON:
    if isinstance(outcome, RequestError):
        return envelope.error_object(outcome)
    return task.postprocess(outcome, request.parameters)


def _reject_whole(request: Request, outcomes: list[Tensor | RequestError]) -> RequestError | None:
    """Return the error for a request with bad instances, None where it may go on."""
    bad = [(index, one) for index, one in enumerate(outcomes) if isinstance(one, RequestError)]
    if not bad or request.returns_errors:
        return None
    named = [
        f"instances[{index}]: {envelope.truncate(str(error), MAX_REASON_CHARS)}"
        for index, error in bad[:MAX_REPORTED]
    ]
    if len(bad) > MAX_REPORTED:
        rest = [index for index, _ in bad[MAX_REPORTED:]]
        named.append(f"and {len(rest)} more: {_ranges(rest)}")
    faults = {type(error) for _, error in bad}
    return (Internal if Internal in faults else InvalidArgument)("; ".join(named))


def _ranges(indexes: list[int]) -> str:
    """Write rising numbers as "20-22, 25"."""
    ranges: list[list[int]] = []
    for index in indexes:
        if ranges and index == ranges[-1][1] + 1:
            ranges[-1][1] = index
        else:
            ranges.append([index, index])
    return ", ".join(str(a) if a == b else f"{a}-{b}" for a, b in ranges)
