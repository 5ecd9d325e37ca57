"""Classify images of handwritten digits: a small network, and images in every shape that clients send."""

import json
from pathlib import Path
from typing import Any

import torch
from decode import decode_instance
from network import SIDE, read_network
from normalise import normalise
from torch import Tensor, nn

from task import JSON, BadParameter
from task.attribution import integrated_gradients
from task.backends import load_backend

TOP_K = 3
"""The number of scores in a prediction, if `parameters.top_k` is not set."""


def load(folder: Path, device: torch.device) -> "DigitTask":
    """Load model.json and weights.safetensors, and the backend that backend.json names."""
    network, labels = read_network(folder)
    return DigitTask(network.to(device), labels, folder)


class DigitTask:
    """Classifies digits, or the classes that the network was trained on."""

    accepts = ("image/png", "image/jpeg", "image/webp")

    def __init__(self, network: nn.Module, labels: list[str], folder: Path) -> None:
        self.network, self.labels = network, labels
        example = torch.zeros(1, 1, SIDE, SIDE, device=next(network.parameters()).device)
        self.backend = load_backend(network, folder, example)

    def preprocess(self, instance: JSON) -> Tensor:
        """Return an image in any accepted shape as (1, 28, 28) uint8; raise BadInstance."""
        return normalise(decode_instance(instance)).unsqueeze(0)

    def inference(self, batch: Tensor) -> Tensor:
        """Return (N, classes) probabilities for (N, 1, 28, 28) uint8 images."""
        return self.backend(batch / 255).softmax(dim=1)

    def postprocess(self, row: Tensor, parameters: dict[str, JSON]) -> dict[str, Any]:
        """Return the label, its score and the top k scores for (classes,) probabilities."""
        scores, classes = row.topk(self._top_k(parameters))
        names = [self.labels[index] for index in classes.tolist()]
        ranked = dict(zip(names, (round(score, 6) for score in scores.tolist()), strict=True))
        return {"label": names[0], "score": ranked[names[0]], "scores": ranked}

    def explain(self, sample: Tensor) -> dict[str, Any]:
        """Return how much each of the 28 x 28 pixels adds to the score of the label, over a blank picture."""
        ink = sample / 255
        label = int(self.network(ink[None]).argmax())

        def score(batch: Tensor) -> Tensor:
            return self.network(batch).softmax(dim=1)[:, label]

        attributions = integrated_gradients(score, ink, torch.zeros_like(ink))
        return {"label": self.labels[label], "attributions": attributions[0]}

    def _top_k(self, parameters: dict[str, JSON]) -> int:
        if unknown := parameters.keys() - {"top_k"}:
            raise BadParameter(f"{min(unknown)[:20]}: unknown parameter; expected top_k")
        top_k = parameters.get("top_k", TOP_K)
        # The Python SDK sends every number as a float.
        if type(top_k) not in (int, float) or top_k != top_k // 1 or top_k < 1:
            got = json.dumps(top_k)[:20]
            raise BadParameter(f"top_k: expected a whole number of at least 1; got {got}")
        return int(min(top_k, len(self.labels)))
