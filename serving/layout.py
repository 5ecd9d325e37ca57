"""The layout of a model on a machine: workers, threads, batches, and the size of Java's heap."""

from typing import NamedTuple

WORKER_BYTES = 600 << 20
"""What one worker with torch and a small model may grow to."""
FRONTEND_BYTES = 500 << 20
"""What Java and the other processes need beside the workers."""
MIN_HEAP_BYTES, MAX_HEAP_BYTES = 128 << 20, 512 << 20

MIN_PARALLEL_MS = 4
"""Inference that takes this long on one thread is faster on several."""
MAX_THREADS = 4
"""Threads per worker; more gain less than another worker does."""
MAX_BATCH_REQUESTS = 32
MAX_BATCH_MS = 250
"""The time for one batch: requests that arrive while it runs wait for all of it."""


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


def max_workers(cores: int, memory_bytes: int | None, model_bytes: int = 0) -> int:
    """Return how many workers fit into the memory; one per core if it is not limited.

    A model in memory may be twice as large as its files, for example in a second form for a faster backend.
    """
    if memory_bytes is None:
        return cores
    return max((memory_bytes - FRONTEND_BYTES) // (WORKER_BYTES + 2 * model_bytes), 1)


def heap_bytes(memory_bytes: int | None) -> int:
    """Return the size of Java's heap: a quarter of the memory, within fixed limits."""
    if memory_bytes is None:
        return MAX_HEAP_BYTES
    return min(max(memory_bytes // 4, MIN_HEAP_BYTES), MAX_HEAP_BYTES)
