"""The bare limit: decode, preprocess and forward in processes of their own, with no server.

The passes are as large as the clients would allow: with 32 clients and two processes, sixteen
requests at once, up to the largest batch that the servers may make too.
"""

import json
import multiprocessing
import statistics
import sys
import time
from multiprocessing.connection import Connection
from pathlib import Path
from types import TracebackType
from typing import Any, NamedTuple, Self

from benchmarks.load import Load
from benchmarks.workloads import Workload


class Order(NamedTuple):
    """What a process is told to do."""

    threads: int
    body: str
    """Of one request."""
    at_once: int
    """Requests in a pass."""
    until: float
    """time.monotonic(), which is the same for all processes of a machine."""


class Limit:
    """The processes."""

    def __init__(self, workload: Workload, cores: int) -> None:
        """Start one for each core."""
        self._workload, self._cores = workload, cores
        self._threads_alone = 0
        self._pipes: list[Connection] = []
        self._processes = []
        spawn = multiprocessing.get_context("spawn")
        for _ in range(cores):
            here, there = spawn.Pipe()
            process = spawn.Process(target=_work, args=(there, workload.folder), daemon=True)
            process.start()
            self._pipes.append(here)
            self._processes.append(process)

    def __enter__(self) -> Self:
        """Return itself."""
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, _: TracebackType | None
    ) -> None:
        """End the processes."""
        for process in self._processes:
            process.terminate()
            process.join(10)

    def press(self, clients: int, instances: int, seconds: float) -> Load:
        """Answer as many requests as can be in some seconds.

        One client at a time has one process, with one thread or all, whichever is faster; more of
        them have a process a core.
        """
        body = self._workload.body(instances).read_text()
        alone = clients == 1
        if alone and not self._threads_alone:
            self._threads_alone = self._cores
            trials = {threads: self._alone(threads) for threads in {1, self._cores}}
            self._threads_alone = max(trials, key=lambda threads: trials[threads])
        pipes = self._pipes[:1] if alone else self._pipes
        most = max(self._workload.largest_batch // instances, 1)
        at_once = min(max(clients // len(pipes), 1), most)
        began = time.monotonic()
        order = Order(self._threads_alone if alone else 1, body, at_once, began + seconds)
        for pipe in pipes:
            pipe.send(order)
        passes = [taken for pipe in pipes for taken in pipe.recv()]
        spent = time.monotonic() - began
        times = sorted(1000 * taken for taken in passes)
        p99 = times[min(len(times) * 99 // 100, len(times) - 1)]
        return Load(len(passes) * at_once / spent, statistics.median(times), p99, 0)

    def _alone(self, threads: int) -> float:
        self._threads_alone = threads
        return self.press(1, 1, 2).requests_s


def _work(orders: Connection, folder: Path) -> None:
    sys.path.insert(0, str(folder))
    import torch  # noqa: PLC0415  in the process that needs it

    from model.task import load  # noqa: PLC0415  the archive's

    task: Any = load(folder, torch.device("cpu"))
    while True:
        order: Order = orders.recv()
        torch.set_num_threads(order.threads)
        taken = []
        while (began := time.monotonic()) < order.until:
            asked = [
                one for _ in range(order.at_once) for one in json.loads(order.body)["instances"]
            ]
            tensors = [task.preprocess(instance) for instance in asked]
            with torch.inference_mode():
                task.inference(torch.stack(tensors))
            taken.append(time.monotonic() - began)
        orders.send(taken)
