"""How much of this machine is ours, and what TorchServe should make of it."""

import os
from pathlib import Path
from typing import NamedTuple

CGROUP = Path("/sys/fs/cgroup")
"""Of version 2; one of version 1 has a folder in it for each of its controllers."""
NO_LIMIT = 1 << 60
"""Version 1 writes no limit as a number beyond all memory."""
WORKER_BYTES = 600 << 20
"""What one worker with torch and a small model may grow to."""
LEAST_HEAP, MOST_HEAP = 128 << 20, 512 << 20
FRONT_BYTES = 500 << 20
"""What Java and the rest need beside the workers."""

WORTH_SPLITTING_MS = 4
"""A pass that takes this long on one thread is faster on several."""
MOST_THREADS = 4
"""Threads for one pass; more of them gain little, another worker more."""
MAX_BATCH_REQUESTS = 32
"""Requests in one batch."""
BATCH_MS = 250
"""What a batch may take: who comes while it runs waits for all of it."""


class Layout(NamedTuple):
    """How a model's work is spread over the cores."""

    workers: int
    threads: int
    """OpenMP threads of each worker. workers x threads = cores: any more and they fight."""
    batch_size: int = MAX_BATCH_REQUESTS
    batch_delay_ms: int = 0
    """How long a request waits for others to make a batch with; 0: it takes those that wait too."""
    source: str = "default"
    """Where it comes from; for people."""

    def __str__(self) -> str:
        """Say it in one line."""
        wait = f"wait for others {self.batch_delay_ms} ms" if self.batch_delay_ms else "never wait"
        return (
            f"{self.workers} workers x {self.threads} threads, batches of up to {self.batch_size}"
            f" that {wait} ({self.source})"
        )


def layout(cores: int, memory: int | None, pass_ms: float = 0) -> Layout:
    """Spread work over `cores`, with no more workers than `memory` bytes hold (None: no limit).

    `pass_ms` is what one instance's pass takes on one thread. A short one is not worth waking a
    second thread for, and most of the work around it is Python's: a worker for each core. A long
    one is split: one client alone is answered sooner, and a crowd's batches are no slower.
    """
    split = min(cores, MOST_THREADS) if pass_ms >= WORTH_SPLITTING_MS else 1
    workers = max(min(cores // split, max_workers(cores, memory)), 1)
    threads = max(cores // workers, 1)
    if not pass_ms:
        return Layout(workers, threads)
    return Layout(
        workers, threads, min(max(int(BATCH_MS * threads / pass_ms), 1), MAX_BATCH_REQUESTS)
    )


def max_workers(cores: int, memory: int | None) -> int:
    """Return how many workers `memory` bytes hold; no more than cores where there is no limit."""
    return cores if memory is None else max((memory - FRONT_BYTES) // WORKER_BYTES, 1)


def heap_bytes(memory: int | None) -> int:
    """Return the bytes that Java may take of `memory` for the requests that it holds."""
    return MOST_HEAP if memory is None else min(max(memory // 4, LEAST_HEAP), MOST_HEAP)


def cores(cgroup: Path = CGROUP) -> int:
    """Return the cores that this process may use: its affinity, cut by the cgroup's quota."""
    usable = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count()
    quota = _words(cgroup / "cpu.max") or [
        *_words(cgroup / "cpu/cpu.cfs_quota_us"),
        *_words(cgroup / "cpu/cpu.cfs_period_us"),
    ]
    if len(quota) == 2 and quota[0] not in ("max", "-1"):
        return max(min(usable or 1, int(quota[0]) // int(quota[1])), 1)
    return usable or 1


def memory_limit(cgroup: Path = CGROUP) -> int | None:
    """Return the cgroup's memory limit in bytes, None where it has none."""
    limit = _words(cgroup / "memory.max") or _words(cgroup / "memory/memory.limit_in_bytes")
    if not limit or limit[0] == "max" or int(limit[0]) >= NO_LIMIT:
        return None
    return int(limit[0])


def oom_kills(cgroup: Path = CGROUP) -> int:
    """Return how many processes were killed here because the cgroup's memory was used up."""
    words = _words(cgroup / "memory.events") or _words(cgroup / "memory/memory.oom_control")
    events = dict(zip(words[::2], words[1::2], strict=True))
    return int(events.get("oom_kill", 0))


def _words(file: Path) -> list[str]:
    return file.read_text().split() if file.is_file() else []
