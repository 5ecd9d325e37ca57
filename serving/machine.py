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


class Layout(NamedTuple):
    """How a model's work is spread over the cores."""

    workers: int
    threads: int
    """OpenMP threads of each worker. workers x threads = cores: any more and they fight."""
    batch_size: int = 32
    batch_delay_ms: int = 1
    """How long the first request of a batch may wait for others."""


def layout(cores: int, memory: int | None) -> Layout:
    """Spread work over `cores`, with no more workers than `memory` bytes hold (None: no limit)."""
    room = cores if memory is None else max((memory - FRONT_BYTES) // WORKER_BYTES, 1)
    workers = max(min(cores, room), 1)
    return Layout(workers, threads=max(cores // workers, 1))


def heap(memory: int | None) -> int:
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


def memory(cgroup: Path = CGROUP) -> int | None:
    """Return the cgroup's memory limit in bytes, None where it has none."""
    limit = _words(cgroup / "memory.max") or _words(cgroup / "memory/memory.limit_in_bytes")
    if not limit or limit[0] == "max" or int(limit[0]) >= NO_LIMIT:
        return None
    return int(limit[0])


def out_of_memory(cgroup: Path = CGROUP) -> int:
    """Return how many processes were killed here because the cgroup's memory was used up."""
    words = _words(cgroup / "memory.events") or _words(cgroup / "memory/memory.oom_control")
    events = dict(zip(words[::2], words[1::2], strict=True))
    return int(events.get("oom_kill", 0))


def _words(file: Path) -> list[str]:
    return file.read_text().split() if file.is_file() else []
