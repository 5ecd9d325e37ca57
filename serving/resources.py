"""The machine's resources as this process may use them: cores, memory and out-of-memory kills.

They are read from the control group ("cgroup") that Docker or Kubernetes sets the limits in.
"""

import os
from pathlib import Path

CGROUP = Path("/sys/fs/cgroup")
"""The files of version 2; in version 1 each controller has a folder in it."""
UNLIMITED_BYTES = 1 << 60
"""Version 1 writes "no limit" as a number larger than any memory."""


def cores(cgroup: Path = CGROUP) -> int:
    """Return the number of usable cores: the CPU affinity, reduced by the cgroup's quota."""
    usable = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count()
    quota = _read_words(cgroup / "cpu.max") or [
        *_read_words(cgroup / "cpu/cpu.cfs_quota_us"),
        *_read_words(cgroup / "cpu/cpu.cfs_period_us"),
    ]
    if len(quota) == 2 and quota[0] not in ("max", "-1"):
        return max(min(usable or 1, int(quota[0]) // int(quota[1])), 1)
    return usable or 1


def memory_limit(cgroup: Path = CGROUP) -> int | None:
    """Return the cgroup's memory limit in bytes, None if it has none."""
    old = cgroup / "memory/memory.limit_in_bytes"
    limit = _read_words(cgroup / "memory.max") or _read_words(old)
    if not limit or limit[0] == "max" or int(limit[0]) >= UNLIMITED_BYTES:
        return None
    return int(limit[0])


def physical_memory() -> int:
    """Return the machine's memory in bytes."""
    return os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")


def oom_kills(cgroup: Path = CGROUP) -> int:
    """Return how many of the cgroup's processes were killed because it was out of memory."""
    old = cgroup / "memory/memory.oom_control"
    words = _read_words(cgroup / "memory.events") or _read_words(old)
    events = dict(zip(words[::2], words[1::2], strict=True))
    return int(events.get("oom_kill", 0))


def _read_words(file: Path) -> list[str]:
    return file.read_text().split() if file.is_file() else []
