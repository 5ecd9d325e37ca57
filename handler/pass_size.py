"""Limit the samples of a pass on a GPU by its memory, and by the size beyond which it is no faster per sample.

The same measurement gives the amount of padding that is faster than another pass.
"""

import logging
import os
import statistics
import time
from collections.abc import Callable
from typing import Any

import torch

from handler.collation import (
    MAX_SAMPLES_PER_PASS,
    build_batch,
    find_max_padding,
    find_max_samples,
    measure,
)
from handler.device_memory import is_out_of_memory, release_memory
from handler.splitting import split_output
from task.adapter import AdaptedTask

WORKERS = "GPU_WORKERS"
"""The variable with the number of workers that share the GPU."""
MAX_PASS_MS = 250
"""Larger passes than the first that takes longer are not measured: they can hardly be faster per sample."""
MAX_MEASURING_S = 5
"""After this time no larger pass is measured."""
ROUNDS, MAX_ROUNDS_MS = 3, 1000
"""The passes of a size after the first, and the time after which there are no more."""

log = logging.getLogger(__name__)


class CudaMemory:
    """The memory of one of NVIDIA's GPUs."""

    def __init__(self, device: torch.device) -> None:
        self._device = device

    def free_bytes(self) -> int:
        """Return what this process could allocate."""
        self.release()
        free, _ = torch.cuda.mem_get_info(self._device)
        return free

    def release(self) -> None:
        """Return what no tensor uses to the device."""
        torch.cuda.empty_cache()

    def peak_bytes(self, function: Callable[[], Any]) -> int:
        """Run a function until the device has finished; return what it needed at once, beside what was in use."""
        before = torch.cuda.memory_allocated(self._device)
        torch.cuda.reset_peak_memory_stats(self._device)
        function()
        torch.cuda.synchronize(self._device)
        return torch.cuda.max_memory_allocated(self._device) - before


def read_workers() -> int:
    """Return the number of workers that share the GPU; raise ValueError if the variable is invalid."""
    text = os.environ.get(WORKERS) or "1"
    if not text.isdecimal() or int(text) < 1:
        raise ValueError(f"{WORKERS}: expected a whole number of 1 or more; got {text!r}")
    return int(text)


def limit_passes(task: AdaptedTask, memory: CudaMemory, workers: int) -> None:
    """Measure passes of the task's first example, and set `task.max_samples`; write one line into the log.

    It stays as it is if the task takes lists of samples, or if the measurement fails.
    """
    try:
        with torch.inference_mode():
            text = _limit_passes(task, memory, workers)
    except Exception as error:  # noqa: BLE001  a task may raise anything
        text = f"the samples of a pass are not limited by a measurement: {error}"
    memory.release()
    log.info("%s", text)


def _limit_passes(task: AdaptedTask, memory: CudaMemory, workers: int) -> str:
    example = task.examples[0]
    sample = task.preprocess(example.instance, example.parameters)
    if task.collate is None and isinstance(build_batch(task, [sample]), list):
        raise ValueError("the model takes a list of samples")
    share = memory.free_bytes() // workers
    times_ms: dict[int, float] = {}
    limit, size = MAX_SAMPLES_PER_PASS, 1
    deadline = time.monotonic() + MAX_MEASURING_S
    while size <= limit and time.monotonic() < deadline:
        try:
            times_ms[size], used = _measure_pass(task, [sample] * size, memory)
        except Exception as error:
            if not times_ms or not is_out_of_memory(error):
                raise
            release_memory(error)
            limit = size // 2
            break
        if used > 0:
            limit = max(min(size * share // used, MAX_SAMPLES_PER_PASS), 1)
        if times_ms[size] > MAX_PASS_MS:
            break
        size *= 2
    sizes = [find_max_samples(times_ms), task.max_samples, limit]  # an earlier pass may have set it
    task.max_samples = min(each for each in sizes if each is not None)
    padding = ""
    if task.size is not None:
        task.max_padding = find_max_padding(times_ms, measure(task, sample))
        padding = f"padding of {task.max_padding:.0f} takes as long as another pass; "
    times = ", ".join(f"{size}: {ms:.1f} ms" for size, ms in times_ms.items())
    return (
        f"a pass has at most {task.max_samples} samples; measured {times}; {padding}"
        f"this worker's share of the free memory is {share / 2**30:.1f} GiB"
    )


def _measure_pass(task: AdaptedTask, samples: list[Any], memory: CudaMemory) -> tuple[float, int]:
    """Return the median milliseconds of a pass, and its memory in bytes."""

    def run() -> None:
        split_output(task.inference(build_batch(task, samples)), len(samples))

    used = 0
    times_ms: list[float] = []
    while len(times_ms) <= ROUNDS and sum(times_ms) < MAX_ROUNDS_MS:
        began = time.perf_counter()
        used = max(used, memory.peak_bytes(run))
        times_ms.append(1000 * (time.perf_counter() - began))
    median_ms = statistics.median(times_ms[1:] or times_ms)  # the first pass of a size takes longer
    return median_ms, used
