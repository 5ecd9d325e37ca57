"""The threads of a batch: all of the worker's while no other worker is busy, else a share of the cores."""

import fcntl
import os
from collections.abc import Mapping
from types import TracebackType

import torch


class SharedCores:
    """A context manager for the code that computes a batch, which sets the number of torch's threads.

    A busy worker holds the lock of one byte of a file that all workers open. Linux releases the locks of a
    process that ends.
    """

    def __init__(self, fd: int | None, workers: int, cores: int) -> None:
        """Share `cores` among `workers`; `fd` is the file; without one the number of threads does not change."""
        self._fd, self._workers, self._cores = fd, workers, cores
        self._max_threads = self._threads = torch.get_num_threads()

    def __enter__(self) -> None:
        """Count as busy."""
        if self._fd is None:
            return
        busy = _count_others(self._fd, self._workers) + 1
        threads = max(min(self._cores // busy, self._max_threads), 1)
        if threads != self._threads:
            torch.set_num_threads(threads)
            self._threads = threads

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        """Count as idle."""
        if self._fd is not None:
            fcntl.lockf(self._fd, fcntl.LOCK_UN)


def _count_others(fd: int, workers: int) -> int:
    """Return how many other workers are busy, and keep the first lock that is free."""
    held, others = False, 0
    for index in range(workers):
        try:
            fcntl.lockf(fd, fcntl.LOCK_EX | fcntl.LOCK_NB, 1, index)
        except BlockingIOError:  # another worker has it
            others += 1
            continue
        if held:
            fcntl.lockf(fd, fcntl.LOCK_UN, 1, index)
        held = True
    return others


def create_shared_cores(environ: Mapping[str, str]) -> SharedCores:
    """Return what shares the cores that the environment names; without a name each worker has its own."""
    path = environ.get("SHARED_CORES_FILE")
    if not path:
        return SharedCores(None, 1, 1)
    fd = os.open(path, os.O_RDWR | os.O_CREAT, 0o600)
    return SharedCores(fd, int(environ["WORKERS"]), int(environ["SHARED_CORES"]))
