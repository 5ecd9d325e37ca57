"""The ceiling: the model without a server. Processes parse requests, and predict.

A pass has the largest batch that the clients allow: with 32 clients and two processes, 16 requests,
up to the maximum batch size of the servers.
"""

import contextlib
import itertools
import json
import multiprocessing
import statistics
import sys
import time
from collections.abc import Iterator
from concurrent.futures import ProcessPoolExecutor
from pathlib import Path
from typing import Any, NamedTuple

from benchmarks.load import LoadResult
from benchmarks.workloads import Workload

THREAD_TRIALS = 2
_task: Any = None
"""The task that a process has loaded."""


class Passes(NamedTuple):
    """How processes predict."""

    processes: int
    threads: int
    """Threads of torch in a process."""
    requests: int
    """The requests in a pass."""
    preprocess_threads: int = 1


class Ceiling:
    """A pool with one process per core; it is measured like a server."""

    def __init__(self, pool: ProcessPoolExecutor, workload: Workload, cores: int) -> None:
        self._pool, self._workload, self._cores = pool, workload, cores
        # For one client: one process, with one thread or all, whichever is faster; measured in turn.
        rates = dict.fromkeys((1, cores), 0.0)
        for _ in range(THREAD_TRIALS):
            for threads in rates:
                rates[threads] += self._run(1, Passes(1, threads, 1), 1).requests_per_s
        self._single_client_threads = max(rates, key=lambda threads: rates[threads])

    def measure(self, clients: int, instances: int, seconds: float) -> LoadResult:
        """Process as many requests as possible in `seconds`."""
        if clients == 1:
            return self._run(instances, Passes(1, self._single_client_threads, 1), seconds)
        max_requests = max(self._workload.max_batch_size // instances, 1)
        requests_per_pass = min(max(clients // self._cores, 1), max_requests)
        return self._run(instances, Passes(self._cores, 1, requests_per_pass), seconds)

    def predict(self, bodies: list[str]) -> list[list[Any]]:
        """Return the predictions of each request, from passes of one request, as JSON values."""
        return self._pool.submit(predict, bodies).result()

    def _run(self, instances: int, passes: Passes, seconds: float) -> LoadResult:
        return measure_passes(self._pool, self._workload.write_bodies(instances), passes, seconds)


def measure_passes(
    pool: ProcessPoolExecutor, file: Path, passes: Passes, seconds: float
) -> LoadResult:
    """Predict the request bodies of a file in the processes of a pool, for some seconds."""
    bodies = file.read_text().splitlines()
    started = time.monotonic()  # all processes of a machine share this clock
    arguments = (passes, bodies, started + seconds)
    futures = [pool.submit(_run_passes, *arguments) for _ in range(passes.processes)]
    times_ms = sorted(1000 * pass_s for future in futures for pass_s in future.result())
    duration_s = time.monotonic() - started
    p99_ms = times_ms[min(len(times_ms) * 99 // 100, len(times_ms) - 1)]
    requests_per_s = len(times_ms) * passes.requests / duration_s
    return LoadResult(requests_per_s, statistics.median(times_ms), p99_ms, 0)


@contextlib.contextmanager
def run_ceiling(workload: Workload, cores: int) -> Iterator[Ceiling]:
    """Start the processes; each loads the workload's model."""
    spawn = multiprocessing.get_context("spawn")
    arguments = (workload.folder, workload.site_packages)
    with ProcessPoolExecutor(cores, spawn, initializer=load_task, initargs=arguments) as pool:
        yield Ceiling(pool, workload, cores)


def load_task(folder: Path, site_packages: list[str], device: str = "cpu") -> None:
    """Load the model of this process."""
    global _task  # noqa: PLW0603  one per process
    sys.path += site_packages
    from benchmarks import bare  # noqa: PLC0415  torch is imported only in the pool's processes

    # On a GPU the handler plans the passes by what it has measured there.
    load = bare.load if device == "cpu" else bare.load_measured
    _task = load(folder, device)


def predict(bodies: list[str]) -> list[list[Any]]:
    """Return the predictions of each request, from passes of one request, as JSON values."""
    from benchmarks import bare  # noqa: PLC0415
    from handler.json_output import encode_prediction  # noqa: PLC0415

    return [
        json.loads(encode_prediction(predictions))
        for body in bodies
        for predictions in bare.predict(_task, [json.loads(body)])
    ]


def _run_passes(passes: Passes, bodies: list[str], deadline: float) -> list[float]:
    """Run passes until a time of the monotonic clock; return the seconds of each."""
    import torch  # noqa: PLC0415

    from benchmarks import bare  # noqa: PLC0415

    torch.set_num_threads(passes.threads)
    times_s: list[float] = []
    following = itertools.cycle(bodies)
    while (started := time.monotonic()) < deadline or not times_s:
        requests = [json.loads(next(following)) for _ in range(passes.requests)]
        bare.predict(_task, requests, plans_passes=True, threads=passes.preprocess_threads)
        times_s.append(time.monotonic() - started)
    return times_s
