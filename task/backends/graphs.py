"""Run a network by CUDA graphs: the kernels of a pass are started together, instead of one by one from Python."""

import statistics
import time
from collections.abc import Callable, Mapping
from functools import partial

import torch
from torch import Tensor

from task.backends.accuracy import MAX_RELATIVE_ERROR, random_batch, relative_error
from task.backends.builders import Backend
from task.backends.cuda import Capture, Cuda

SIZES = (1, 2, 4, 8, 16, 32)
"""The batch sizes that have a graph. Larger batches keep the GPU busy without one."""
ROUNDS, MAX_ROUNDS_MS = 3, 1000


class GraphBackend:
    """Runs batches by the graph of the next larger size, if that is faster than without a graph.

    The rows of the graph's input that the batch does not fill keep their old values, and their outputs are dropped.
    """

    def __init__(self, backend: Backend, example: Tensor, accelerator: Cuda) -> None:
        """Capture a graph for each size; raise RuntimeError if that is impossible or of no use.

        `example` is a batch of one. Other shapes and types run without a graph.
        """
        self._backend, self._shape, self._dtype = backend, example.shape[1:], example.dtype
        # Tensors of inference mode could not be changed outside of it.
        with torch.inference_mode(mode=False), torch.no_grad():
            self._input = torch.cat([example] * max(SIZES))
            # The largest first: the smaller ones then use parts of its memory. They may overwrite each other's
            # outputs, because each output is copied before the next replay.
            captures = {
                size: accelerator.capture(partial(self._run_input, size))
                for size in sorted(SIZES, reverse=True)
            }
        self._check(captures)
        self._captures = self._select(captures, accelerator)
        if not self._captures:
            raise RuntimeError("no pass is faster with CUDA graphs")

    def __call__(self, batch: Tensor) -> Tensor:
        """Return the network's output for a batch."""
        capture = self._captures.get(len(batch))
        if (
            capture is None
            or batch.shape[1:] != self._shape
            or batch.dtype is not self._dtype
            or (batch.requires_grad and torch.is_grad_enabled())  # a graph computes no gradients
        ):
            return self._backend(batch)
        return self._replay(capture, batch)

    def _replay(self, capture: Capture, batch: Tensor) -> Tensor:
        count = len(batch)
        self._input[:count].copy_(batch)
        capture.replay()
        return capture.output[:count].clone()

    def _run_input(self, count: int) -> Tensor:
        return self._backend(self._input[:count])

    def _check(self, captures: Mapping[int, Capture]) -> None:
        """Compare all graphs with the network, once all are captured; raise RuntimeError.

        A graph does not notice if a later capture has replaced a tensor that the network keeps.
        """
        example = self._input[:1]
        with torch.inference_mode():
            for size, capture in captures.items():
                batch = random_batch(example.expand(size, *example.shape[1:]))
                output = self._replay(capture, batch)
                if relative_error(output, self._backend(batch)) > MAX_RELATIVE_ERROR:
                    raise RuntimeError(f"the outputs of a graph for {size} instances differ")

    def _select(self, captures: Mapping[int, Capture], accelerator: Cuda) -> Mapping[int, Capture]:
        """Return the capture for each number of instances that is faster with it."""
        plain_ms, graph_ms = {}, {}
        with torch.inference_mode():
            for size, capture in captures.items():
                batch = self._input[:size].clone()
                plain, replay = partial(self._backend, batch), partial(self._replay, capture, batch)
                plain_ms[size] = time_pass(plain, accelerator, ROUNDS)
                graph_ms[size] = time_pass(replay, accelerator, ROUNDS)
        return {count: captures[size] for count, size in plan_sizes(plain_ms, graph_ms).items()}


def plan_sizes(plain_ms: Mapping[int, float], graph_ms: Mapping[int, float]) -> dict[int, int]:
    """Return the size of the graph for each number of instances that is not slower with it.

    Both arguments have the milliseconds of a pass by its size. Between two sizes the time without a graph is taken to
    grow evenly; the one with a graph is that of the larger size.
    """
    plan = {}
    smaller = 0
    for size in sorted(graph_ms):
        before_ms = plain_ms.get(smaller, plain_ms[size])
        for count in range(smaller + 1, size + 1):
            part = (count - smaller) / (size - smaller)
            if graph_ms[size] <= before_ms + part * (plain_ms[size] - before_ms):
                plan[count] = size
        smaller = size
    return plan


def time_pass(function: Callable[[], object], accelerator: Cuda, rounds: int) -> float:
    """Return the median milliseconds of a function until the device has finished, after a first call.

    Slow functions are called less often.
    """
    times_ms: list[float] = []
    while len(times_ms) <= rounds and sum(times_ms) < MAX_ROUNDS_MS:
        accelerator.synchronize()
        began = time.perf_counter()
        function()
        accelerator.synchronize()
        times_ms.append(1000 * (time.perf_counter() - began))
    return statistics.median(times_ms[1:] or times_ms)
