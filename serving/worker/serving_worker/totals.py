"""A worker's totals: histograms and counters in a file, which the telemetry process reads.

Both processes map the file into memory. So a worker adds without a system call, its totals outlive
it, and the telemetry process may be restarted. A new worker continues the file of one that ended.
"""

import fcntl
import itertools
import mmap
import os
from bisect import bisect_left
from pathlib import Path

SECONDS = (0.0005, 0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10, 30, 60)
COUNTS = (1, 2, 4, 8, 16, 32, 64, 128, 256, 512, 1024, 4096)
HISTOGRAMS: dict[str, tuple[float, ...]] = {
    "serving_queue_wait_seconds": SECONDS,
    "serving_decode_seconds": SECONDS,
    "serving_forward_seconds": SECONDS,
    "serving_batch_duration_seconds": SECONDS,
    "serving_batch_requests": COUNTS,
    "serving_batch_instances": COUNTS,
}
"""The upper bounds of each histogram's buckets."""
COUNTERS = ("starts", "lost_batches")
"""Workers that loaded the model; batches whose event could not be sent."""

_SIZES = {name: len(bounds) + 2 for name, bounds in HISTOGRAMS.items()} | dict.fromkeys(COUNTERS, 1)
"""How many numbers a total has: a histogram has a count per bucket, one above them, and the sum."""
_STARTS = dict(zip(_SIZES, itertools.accumulate(_SIZES.values(), initial=0), strict=False))
_FILE_BYTES = 8 * sum(_SIZES.values())


class Totals:
    """The totals of this worker, the only process that writes its file."""

    def __init__(self, folder: Path) -> None:
        """Open the first file in `folder` that no running worker uses; raise OSError."""
        for number in itertools.count():
            with (folder / f"worker-{number}.totals").open("a+b") as file:
                try:
                    fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
                except BlockingIOError:
                    continue
                # A file that is not as large as the mapping would end the process when it is used.
                file.write(bytes(_FILE_BYTES - os.fstat(file.fileno()).st_size))
                file.flush()
                # The mapping keeps the file locked until the process ends.
                self._values = memoryview(mmap.mmap(file.fileno(), _FILE_BYTES)).cast("d")
                return

    def increment(self, counter: str) -> None:
        """Add one to a counter."""
        self._values[_STARTS[counter]] += 1

    def record(self, histogram: str, value: float) -> None:
        """Add a value to a histogram."""
        start, bounds = _STARTS[histogram], HISTOGRAMS[histogram]
        self._values[start + bisect_left(bounds, value)] += 1
        self._values[start + len(bounds) + 1] += value


def sum_totals(folder: Path) -> dict[str, list[float]]:
    """Return the numbers of each total, summed over all workers; a histogram ends with its sum."""
    sums = [0.0] * sum(_SIZES.values())
    for path in folder.glob("worker-*.totals"):
        with path.open("rb") as file:
            if os.fstat(file.fileno()).st_size < _FILE_BYTES:
                continue  # a worker has just created it
            mapped = mmap.mmap(file.fileno(), _FILE_BYTES, access=mmap.ACCESS_READ)
        # Mapped, because a plain read might see half of a number that is being written.
        sums = [a + b for a, b in zip(sums, memoryview(mapped).cast("d").tolist(), strict=True)]
    return {name: sums[start : start + _SIZES[name]] for name, start in _STARTS.items()}
