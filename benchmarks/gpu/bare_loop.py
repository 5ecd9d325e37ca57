"""The bare limit: processes on one device that parse requests and predict, without a server."""

import contextlib
import multiprocessing
import os
import threading
from collections.abc import Iterator
from concurrent.futures import ProcessPoolExecutor
from concurrent.futures.process import BrokenProcessPool
from pathlib import Path
from typing import Any, NamedTuple

from benchmarks import ceiling
from benchmarks.errors import StartError
from benchmarks.load import LoadResult
from benchmarks.results import CEILING
from benchmarks.workloads import Workload
from serving import resources

START_TIMEOUT_S = 180


class BareLoop(NamedTuple):
    """Processes that have loaded the model; each preprocesses with its share of the cores."""

    pool: ProcessPoolExecutor
    processes: int
    workload: Workload

    @property
    def threads(self) -> int:
        """The threads of a process."""
        return max(resources.cores() // self.processes, 1)

    @property
    def label(self) -> str:
        """The name in the results."""
        return f"{CEILING} {self.processes}x{self.threads}"

    def measure(self, clients: int, seconds: float) -> LoadResult:
        """Predict for some seconds, in batches as large as the clients allow."""
        processes = min(self.processes, clients)
        requests_per_pass = min(clients // processes, self.workload.max_batch_size)
        passes = ceiling.Passes(processes, self.threads, requests_per_pass, self.threads)
        return ceiling.measure_passes(self.pool, self.workload.write_bodies(1), passes, seconds)

    def predict(self, bodies: list[str]) -> list[list[Any]]:
        """Return the predictions of each request, as JSON values."""
        return self.pool.submit(ceiling.predict, bodies).result()


@contextlib.contextmanager
def run_bare_loop(workload: Workload, processes: int) -> Iterator[BareLoop]:
    """Start the processes, and yield them when each has loaded the workload's model; raise StartError."""
    spawn = multiprocessing.get_context("spawn")
    arguments = (workload.folder, workload.site_packages, workload.device)
    with ProcessPoolExecutor(
        processes, spawn, initializer=_load, initargs=(spawn.Barrier(processes), *arguments)
    ) as pool:
        # A pool starts a process for each call that finds none idle.
        futures = [pool.submit(os.getpid) for _ in range(processes)]
        try:
            for future in futures:
                future.result()
        except BrokenProcessPool as error:
            raise StartError("the bare limit did not load the model, as described above") from error
        yield BareLoop(pool, processes, workload)


def _load(barrier: threading.Barrier, folder: Path, packages: list[str], device: str) -> None:
    """Load the model of this process, and wait until the others have loaded it."""
    ceiling.load_task(folder, packages, device)
    barrier.wait(START_TIMEOUT_S)
