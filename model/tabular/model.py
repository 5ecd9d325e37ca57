"""Classify rows of named features. The type hints are the schema: a row without a feature gets a 400."""

from pathlib import Path
from typing import Any, TypedDict

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


STEPS = 128
"""The rows between the mean of the training's and the instance at which an explanation takes gradients."""


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
        """Return how much each feature adds to the score of the label, compared with a row of mean features.

        Integrated gradients (https://arxiv.org/abs/1703.01365): the mean gradient on the way from the mean row. The
        attributions sum to the score less that of the mean row.
        """
        label = int(self.model(sample[None]).argmax())
        mean = self.model[0].running_mean
        parts = (torch.arange(STEPS, device=sample.device) + 0.5) / STEPS
        path = (mean + parts[:, None] * (sample - mean)).requires_grad_()
        scores = self.model(path).softmax(1)[:, label]
        (gradients,) = torch.autograd.grad(scores.sum(), path)
        attributions = (sample - mean) * gradients.mean(0)
        features = dict(zip(Features.__annotations__, attributions, strict=True))
        return {"label": LABELS[label], "attributions": features}
