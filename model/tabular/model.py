"""Classify rows of named features. The type hints are the schema: a row without a feature gets a 400."""

from pathlib import Path
from typing import Any, TypedDict

import torch
from network import LABELS, build_network
from safetensors.torch import load_file
from torch import Tensor, nn

from task.attribution import integrated_gradients


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

    def __init__(self, model: nn.Sequential) -> None:
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

    def explain(self, sample: Tensor) -> dict[str, Any]:
        """Return how much each feature adds to the score of the label, over a row of mean features."""
        label = int(self.model(sample[None]).argmax())

        def score(batch: Tensor) -> Tensor:
            return self.model(batch).softmax(1)[:, label]

        values = integrated_gradients(score, sample, self.model[0].running_mean)
        features = dict(zip(Features.__annotations__, values, strict=True))
        return {"label": LABELS[label], "attributions": features}
