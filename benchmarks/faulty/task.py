"""Doubles a number; an instance that is a word makes it fail in the way that the word says."""

import time
from pathlib import Path

import torch
from torch import Tensor

from task import JSON, BadInstance, Golden

HOG = -2.0
HANG = -3.0


class Faulty:
    """The task."""

    golden = Golden(1, 2.0)

    def preprocess(self, instance: JSON) -> Tensor:
        """Take a number, or "raise", "hog", "hang"."""
        if instance == "raise":
            raise RuntimeError("as it was asked to")
        if instance in ("hog", "hang"):
            return torch.tensor([HOG if instance == "hog" else HANG])
        if not isinstance(instance, (int, float)):
            raise BadInstance(f"expected a number, got {type(instance).__name__}")
        return torch.tensor([float(instance)])

    def inference(self, batch: Tensor) -> Tensor:
        """Double each; take all the memory there is, or for ever, where one asks for it."""
        if bool((batch == HANG).any()):
            time.sleep(3600)
        hoard = []
        while bool((batch == HOG).any()):
            hoard.append(torch.ones(1 << 22))
        return batch * 2

    def postprocess(self, row: Tensor, parameters: dict[str, JSON]) -> JSON:  # noqa: ARG002
        """Return the number."""
        return float(row[0])


def load(folder: Path, device: torch.device) -> Faulty:  # noqa: ARG001
    """Nothing is loaded."""
    return Faulty()
