"""A model that fails on request, for the fault injection of `make faults`.

It doubles a number; the instances "raise", "hog" and "hang" cause the failures of the same name.
"""

import time
from pathlib import Path

import torch
from torch import Tensor

from task import JSON, BadInstance

HOG = -2.0
HANG = -3.0


class Faulty:
    """The task."""

    def preprocess(self, instance: JSON) -> Tensor:
        """Turn a number, "hog" or "hang" into a tensor; raise RuntimeError for "raise"."""
        if instance == "raise":
            raise RuntimeError("requested by the instance")
        if instance in ("hog", "hang"):
            return torch.tensor([HOG if instance == "hog" else HANG])
        if not isinstance(instance, (int, float)):
            raise BadInstance(f"expected a number, got {type(instance).__name__}")
        return torch.tensor([float(instance)])

    def inference(self, batch: Tensor) -> Tensor:
        """Double each number; allocate memory without limit for HOG, and sleep for HANG."""
        if bool((batch == HANG).any()):
            time.sleep(3600)
        allocated = []
        while bool((batch == HOG).any()):
            allocated.append(torch.ones(1 << 22))
        return batch * 2

    def postprocess(self, row: Tensor, parameters: dict[str, JSON]) -> JSON:  # noqa: ARG002
        """Return the number."""
        return float(row[0])


def load(folder: Path, device: torch.device) -> Faulty:  # noqa: ARG001
    """Return the task, which has no weights."""
    return Faulty()
