"""A model that fails on request, for the fault injection of `make faults`.

It doubles a number; the instances "raise", "hog", "hang", "lock" and "large" have the effects of their names. A
stream does not end.
"""

import ctypes
import time
from collections.abc import Iterator
from pathlib import Path

import torch
from torch import Tensor

from task import JSON, BadInstance

HOG, HANG, LOCK, LARGE = -2.0, -3.0, -4.0, -5.0
EFFECTS = {"hog": HOG, "hang": HANG, "lock": LOCK, "large": LARGE}
PART = "x" * (1 << 16)


class Faulty:
    """The task."""

    def preprocess(self, instance: JSON) -> Tensor:
        """Turn a number or the name of an effect into a tensor; raise RuntimeError for "raise"."""
        if instance == "raise":
            raise RuntimeError("requested by the instance")
        if isinstance(instance, str) and instance in EFFECTS:
            return torch.tensor([EFFECTS[instance]])
        if not isinstance(instance, (int, float)):
            raise BadInstance(f"expected a number, got {type(instance).__name__}")
        return torch.tensor([float(instance)])

    def inference(self, batch: Tensor) -> Tensor:
        """Double each number; allocate memory without limit for HOG, sleep for HANG, lock a mutex twice for LOCK."""
        if bool((batch == HANG).any()):
            time.sleep(3600)
        if bool((batch == LOCK).any()):
            # In C, with the interpreter's lock held: no signal ends it.
            mutex, library = ctypes.create_string_buffer(64), ctypes.PyDLL(None)
            for _ in range(2):
                library.pthread_mutex_lock(mutex)
        allocated = []
        while bool((batch == HOG).any()):
            allocated.append(torch.ones(1 << 22))
        return batch * 2

    def postprocess(self, row: Tensor, parameters: dict[str, JSON]) -> JSON:  # noqa: ARG002
        """Return the number, or 8 MB for LARGE."""
        number = float(row[0])
        return PART * 128 if number == 2 * LARGE else number

    def stream(self, sample: Tensor, parameters: dict[str, JSON]) -> Iterator[JSON]:  # noqa: ARG002
        """Yield parts of 64 KiB without an end."""
        while True:
            yield PART


def load(folder: Path, device: torch.device) -> Faulty:  # noqa: ARG001
    """Return the task, which has no weights."""
    return Faulty()
