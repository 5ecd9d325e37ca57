"""Classify rows of named features. The type hints are the schema: a row without a feature gets a 400."""

from pathlib import Path
from typing import TypedDict

import torch
from network import LABELS, build_network
from safetensors.torch import load_file
from torch import Tensor, nn


class Features(TypedDict):
    """The mean of each measure over the cells of one sample."""

    radius: float
    texture: float
    perimeter: float
    area: float
    smoothness: float
    compactness: float
    concavity: float
    concave_points: float
    symmetry: float
    fractal_dimension: float


class Prediction(TypedDict):
    """The label and its probability."""

    label: str
    score: float


def load(folder: Path, device: torch.device) -> "TumorClassifier":
    """Load the network's weights from a folder onto a device."""
    network = build_network()
    network.load_state_dict(load_file(folder / "weights.safetensors"))
    return TumorClassifier(network.eval().to(device))


class TumorClassifier:
    """Classifies samples of breast tissue."""

    labels = LABELS

    def __init__(self, model: nn.Module) -> None:
        self.model = model

    def preprocess(self, instance: Features) -> Tensor:
        """Return the features as a tensor (10,), in the order of `Features`."""
        return torch.tensor([float(instance[name]) for name in Features.__annotations__])

    def inference(self, batch: Tensor) -> Tensor:
        """Return (N, 2) probabilities for (N, 10) features."""
        return self.model(batch).softmax(1)

    def postprocess(self, output: Tensor) -> Prediction:
        """Return the more probable label."""
        score, index = output.max(0)
        return {"label": LABELS[index], "score": score}
