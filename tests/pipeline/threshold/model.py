"""A model that train.py makes in a second: a number is "high" from the trained threshold on, otherwise "low"."""

import json
from pathlib import Path

import torch
from torch import Tensor


def load(folder: Path, device: torch.device) -> "Threshold":
    """Load the threshold."""
    return Threshold(json.loads((folder / "threshold.json").read_text()), device)


class Threshold:
    """Compares numbers with the threshold."""

    def __init__(self, threshold: float, device: torch.device) -> None:
        self.threshold = torch.tensor(threshold, device=device)

    def preprocess(self, instance: float) -> Tensor:
        """Return the number."""
        return torch.tensor(float(instance))

    def inference(self, batch: Tensor) -> Tensor:
        """Return (N,) booleans."""
        return batch >= self.threshold

    def postprocess(self, is_high: Tensor) -> dict[str, str]:
        """Return the label."""
        return {"label": "high" if is_high.item() else "low"}
