"""Preprocess the instances of a batch in parallel, within a time limit.

A worker that does not respond in time is interrupted, and fails every request in its batch. A thousand images
that are small files but decode to many pixels must not cause that.
"""

import logging
import os
import threading
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from typing import NamedTuple, TypeVar

import torch

from handler.envelope import Request
from handler.error_report import find_request_error
from handler.errors import RequestError, ResourceExhaustedError
from handler.failures import Failures
from task import JSON, Sample
from task.adapter import AdaptedTask

RESPONSE_TIMEOUT_S = float(os.environ.get("RESPONSE_TIMEOUT_S") or 50)
"""The time for a response, which the server sets. Later responses do not reach the client."""
PREPROCESS_TIMEOUT_S = 0.6 * RESPONSE_TIMEOUT_S
"""Limit for all instances of a batch, which leaves time for inference."""
SHARED_PREPROCESS_TIMEOUT_S = 0.2 * RESPONSE_TIMEOUT_S
"""The limit for a batch of several requests: each of them waits for the slowest."""

log = logging.getLogger(__name__)
T = TypeVar("T")
R = TypeVar("R")
_POOL = ThreadPoolExecutor(torch.get_num_threads(), thread_name_prefix="preprocess")


class Preprocessed(NamedTuple):
    """A request that continues to inference."""

    request: Request
    samples: list[Sample | RequestError]
    """For each instance its sample, or the reason why there is none."""


def preprocess_requests(
    task: AdaptedTask, requests: list[Request | RequestError], failures: Failures
) -> list[Preprocessed | RequestError]:
    """Preprocess the instances of each request; return the requests' results in their order.

    The smallest request comes first, and each may use its share of the time that is left, so that a
    request that takes too long exhausts only its own share.
    """
    sizes = [len(each.instances) if isinstance(each, Request) else 0 for each in requests]
    by_size = sorted(range(len(requests)), key=sizes.__getitem__)
    timeout_s = PREPROCESS_TIMEOUT_S if len(requests) == 1 else SHARED_PREPROCESS_TIMEOUT_S
    budget = TimeBudget(len(requests), timeout_s, torch.get_num_threads())

    def preprocess(index: int) -> Preprocessed | RequestError:
        request, deadline = requests[index], budget.next_deadline()
        if isinstance(request, RequestError):
            return request
        return _preprocess(task, request, deadline, failures)

    results = dict(zip(by_size, _map_parallel(preprocess, by_size), strict=True))
    return [results[index] for index in range(len(requests))]


class TimeBudget:
    """Divides a time, which begins now, among the requests of a batch."""

    def __init__(self, requests: int, timeout_s: float, threads: int = 1) -> None:
        """Divide `timeout_s` among a number of requests, of which `threads` run at once."""
        self._end = time.monotonic() + timeout_s
        self._requests_left, self._threads = requests, threads
        self._lock = threading.Lock()

    def next_deadline(self) -> float:
        """Return when the next request must be done, on the monotonic clock: after an equal share of what is left."""
        with self._lock:
            now = time.monotonic()
            in_parallel = min(self._threads, self._requests_left)
            deadline = now + (self._end - now) * in_parallel / self._requests_left
            self._requests_left -= 1
            return deadline


def _preprocess(
    task: AdaptedTask, request: Request, deadline: float, failures: Failures
) -> Preprocessed | RequestError:
    def preprocess(item: tuple[int, JSON]) -> Sample | RequestError:
        index, instance = item
        if index and time.monotonic() > deadline:
            raise ResourceExhaustedError(
                f"instances[{index}]: not preprocessed within the time limit; "
                "send fewer or smaller instances in a request, or retry"
            )
        try:
            return task.preprocess(instance, request.parameters)
        except Exception as error:  # noqa: BLE001  a task may raise anything; it is logged
            step = "preprocessing"
            return failures.to_request_error(step, error, instance, request.parameters)

    try:
        samples = _map_parallel(preprocess, list(enumerate(request.instances)))
    except ResourceExhaustedError as error:
        return error.with_traceback(None)
    return find_request_error(request, samples) or Preprocessed(request, samples)


def _map_parallel(function: Callable[[T], R], items: list[T]) -> list[R]:
    """Return the results in order, computed on as many threads as torch uses.

    Image decoders release the GIL. A call from within a thread of the pool runs in that thread.
    """
    if _thread_count(len(items)) == 1 or threading.current_thread() is not threading.main_thread():
        return [function(item) for item in items]
    return list(_POOL.map(function, items))


def _thread_count(items: int) -> int:
    return min(torch.get_num_threads(), items)
