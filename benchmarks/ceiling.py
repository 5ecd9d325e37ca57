"""The bare limit: decode, preprocess and forward in processes of their own, with no server.

The passes are as large as the clients would allow: with 32 clients and two processes, sixteen
requests at once, up to the largest batch that the servers may make too.
"""

import contextlib
import json
import multiprocessing
import statistics
import sys
import time
from collections.abc import Iterator
from concurrent.futures import ProcessPoolExecutor
from pathlib import Path
from typing import Any

from benchmarks.load import Load
from benchmarks.workloads import Workload

_task: Any = None
"""The loaded task; each process has its own."""


class Limit:
    """Processes that compute, one a core."""

    def __init__(self, pool: ProcessPoolExecutor, workload: Workload, cores: int) -> None:
        self._pool, self._workload, self._cores = pool, workload, cores
        # One client has one process, with one thread or all, whichever is faster.
        trials = {threads: self._run(1, 1, threads, 1, 2) for threads in {1, cores}}
        self._threads_alone = max(trials, key=lambda threads: trials[threads].requests_s)

    def press(self, clients: int, instances: int, seconds: float) -> Load:
        """Compute as many requests as possible in some seconds."""
        if clients == 1:
            return self._run(1, instances, self._threads_alone, 1, seconds)
        largest = max(self._workload.largest_batch // instances, 1)
        at_once = min(max(clients // self._cores, 1), largest)
        return self._run(self._cores, instances, 1, at_once, seconds)

    def _run(
        self, processes: int, instances: int, threads: int, at_once: int, seconds: float
    ) -> Load:
        body = self._workload.body(instances).read_text()
        began = time.monotonic()  # the same clock for all processes of a machine
        order = (threads, body, at_once, began + seconds)
        futures = [self._pool.submit(_work, *order) for _ in range(processes)]
        times = sorted(1000 * taken for future in futures for taken in future.result())
        spent = time.monotonic() - began
        p99 = times[min(len(times) * 99 // 100, len(times) - 1)]
        return Load(len(times) * at_once / spent, statistics.median(times), p99, 0)


@contextlib.contextmanager
def limit(workload: Workload, cores: int) -> Iterator[Limit]:
    """Start the processes, with the workload's model loaded in each."""
    spawn = multiprocessing.get_context("spawn")
    with ProcessPoolExecutor(cores, spawn, initializer=_load, initargs=(workload.folder,)) as pool:
        yield Limit(pool, workload, cores)


def _load(folder: Path) -> None:
    global _task  # noqa: PLW0603  one to a process
    sys.path.insert(0, str(folder))
    import torch  # noqa: PLC0415  in the process that needs it

    from model.task import load  # noqa: PLC0415  the archive's

    _task = load(folder, torch.device("cpu"))


def _work(threads: int, body: str, at_once: int, until: float) -> list[float]:
    """Compute until a time; return the seconds of each pass."""
    import torch  # noqa: PLC0415

    torch.set_num_threads(threads)
    taken: list[float] = []
    while (began := time.monotonic()) < until or not taken:
        asked = [one for _ in range(at_once) for one in json.loads(body)["instances"]]
        tensors = [_task.preprocess(instance) for instance in asked]
        with torch.inference_mode():
            _task.inference(torch.stack(tensors))
        taken.append(time.monotonic() - began)
    return taken
