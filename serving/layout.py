"""The layout of a model on a machine: workers, threads, batches, and the size of Java's heap."""

from collections.abc import Mapping
from typing import NamedTuple

from serving.errors import ServingError

WORKER_BYTES = 600 << 20
"""What one worker with torch and a small model may grow to."""
FRONTEND_BYTES = 500 << 20
"""What Java and the other processes need beside the workers."""
JAVA_BYTES = 130 << 20
"""What the Java of each further model needs."""
MIN_WORKER_BYTES, MIN_FRONTEND_BYTES = 100 << 20, 300 << 20
"""What they need beside the model's files if requests are small: several models without this room are refused."""
MIN_HEAP_BYTES, MAX_HEAP_BYTES = 128 << 20, 512 << 20

MIN_PARALLEL_MS = 4
"""Inference that takes this long on one thread is faster on several."""
MAX_THREADS = 4
"""Threads per worker; more gain less than another worker does."""
WORKERS_PER_GPU = 2
MAX_BATCH_REQUESTS = 32
MAX_BATCH_MS = 250
"""The time for one batch: requests that arrive while it runs wait for all of it."""


class LayoutError(ServingError):
    """The models do not fit into the memory."""


class Layout(NamedTuple):
    """How a model's work is distributed over the cores."""

    workers: int
    threads: int
    """OpenMP threads of each worker. If workers x threads is more than the cores, a worker uses fewer while others
    are busy: more threads would compete for the cores."""
    batch_size: int = MAX_BATCH_REQUESTS
    """The most requests in one batch."""
    batch_delay_ms: int = 0
    """How long a request waits for others to fill a batch; 0 batches only what is queued already."""
    source: str = "default"
    """What the layout was chosen by, for the log."""

    def __str__(self) -> str:
        """Describe the layout in one line of the log."""
        return (
            f"{self.workers} workers x {self.threads} threads, batches of up to {self.batch_size}"
            f" requests, batch delay {self.batch_delay_ms} ms ({self.source})"
        )


def choose_layout(
    cores: int, memory_bytes: int | None, inference_ms: float = 0, model_bytes: int = 0
) -> Layout:
    """Return the layout for a number of cores and a memory limit (None: no limit).

    `inference_ms` is the time of one instance on one thread, 0 if unknown; `model_bytes` is the size of the
    model's files. Each core gets a worker. Below MIN_PARALLEL_MS a second thread costs more than it gains.
    Slower inference is split over the cores of the workers that are idle, so that a single client is answered
    sooner; the busy ones share the cores.
    """
    workers = max(min(cores, max_workers(cores, memory_bytes, model_bytes)), 1)
    share = max(cores // workers, 1)
    if not inference_ms:
        return Layout(workers, share)
    threads = max(share, min(cores, MAX_THREADS) if inference_ms >= MIN_PARALLEL_MS else 1)
    batch_size = max(int(MAX_BATCH_MS * share / inference_ms), 1)
    return Layout(workers, threads, min(batch_size, MAX_BATCH_REQUESTS))


def choose_gpu_layout(gpus: int, cores: int, own: Layout, *, takes_batches: bool) -> Layout:
    """Return the layout of a model on a number of GPUs, given its layout on the CPU.

    A GPU has two workers, limited by those that fit into the container's memory: one preprocesses while the other
    computes. A batch may be as large as the GPU makes use of, if the model takes batches.
    """
    workers = max(min(WORKERS_PER_GPU * gpus, own.workers), 1)
    return own._replace(
        workers=workers,
        threads=max(cores // workers, 1),
        batch_size=MAX_BATCH_REQUESTS if takes_batches else own.batch_size,
        source=f"{gpus} GPU{'s' * (gpus > 1)}",
    )


def max_workers(cores: int, memory_bytes: int | None, model_bytes: int = 0) -> int:
    """Return how many workers fit into the memory; one per core if it is not limited.

    A model in memory may be twice as large as its files, for example in a second form for a faster backend.
    """
    if memory_bytes is None:
        return cores
    return max((memory_bytes - FRONTEND_BYTES) // (WORKER_BYTES + 2 * model_bytes), 1)


class Demand(NamedTuple):
    """What one of several models would use if it had the machine for itself."""

    layout: Layout
    model_bytes: int
    """The size of the model's files."""


def share_machine(
    demands: Mapping[str, Demand], cores: int, memory_bytes: int
) -> dict[str, Layout]:
    """Return the layout of each of several models by its name; raise LayoutError if the memory is too small.

    Each model gets a worker. Then the model with the fewest workers gets another one, as long as the memory
    suffices and no model has more than it would have alone. The busy workers of all models share the cores.
    """
    further_bytes = JAVA_BYTES * (len(demands) - 1)
    min_bytes = MIN_FRONTEND_BYTES + further_bytes
    min_bytes += sum(MIN_WORKER_BYTES + demand.model_bytes for demand in demands.values())
    if min_bytes > memory_bytes:
        sizes = ", ".join(f"{name} {d.model_bytes >> 20} MiB" for name, d in demands.items())
        raise LayoutError(
            f"{len(demands)} models with a worker each need at least {min_bytes >> 20} MiB, and the container has "
            f"{memory_bytes >> 20} MiB: give it more memory, or fewer models ({sizes})"
        )
    costs = {name: WORKER_BYTES + 2 * demand.model_bytes for name, demand in demands.items()}
    workers = dict.fromkeys(demands, 1)
    free = memory_bytes - FRONTEND_BYTES - further_bytes - sum(costs.values())
    while growing := [
        name
        for name, demand in demands.items()
        if workers[name] < demand.layout.workers and costs[name] <= free
    ]:
        name = min(growing, key=workers.__getitem__)
        workers[name] += 1
        free -= costs[name]
    return {
        name: layout._replace(
            workers=workers[name],
            threads=max(layout.threads, cores // workers[name]),
            source=f"{layout.source}, {len(demands)} models share {cores} cores",
        )
        for name, (layout, _) in demands.items()
    }


def heap_bytes(memory_bytes: int | None) -> int:
    """Return the size of Java's heap: a quarter of the memory, within fixed limits."""
    if memory_bytes is None:
        return MAX_HEAP_BYTES
    return min(max(memory_bytes // 4, MIN_HEAP_BYTES), MAX_HEAP_BYTES)
