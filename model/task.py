"""The task of the example model: classify an image of a digit, and return its label and scores.

Replace this file to serve your own model. `task/__init__.py` documents the interface.
"""

import json
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file
from torch import Tensor, nn

from model import network
from model.decode import decode_instance
from model.normalise import normalise
from task import JSON, BadParameter, Golden
from task.backends import Backend, load_backend

TOP_K = 3
"""The number of scores in a prediction, if `parameters.top_k` is not set."""


def load(folder: Path, device: torch.device) -> "DigitTask":
    """Load model.json, golden.json and weights.safetensors from a folder.

    Raises FileNotFoundError or ValueError if they do not fit this network, KeyError if model.json lacks
    a key, and RuntimeError if a tensor has another shape.
    """
    net, labels = read_network(folder)
    example = torch.zeros(1, 1, network.SIDE, network.SIDE, device=device)
    golden = Golden(**json.loads((folder / "golden.json").read_text()))
    return DigitTask(load_backend(net.to(device), folder, example), device, labels, golden)


def read_network(folder: Path) -> tuple[nn.Module, list[str]]:
    """Load only the network and its labels; raise as `load` does."""
    metadata = json.loads((folder / "model.json").read_text())
    if metadata["network_version"] != network.VERSION:
        raise ValueError(
            f"the weights are for network version {metadata['network_version']}, this code has "
            f"version {network.VERSION}: train again"
        )
    net = network.DigitNet(classes=len(metadata["labels"]))
    net.load_state_dict(read_weights(folder / "weights.safetensors"))
    return net.eval(), metadata["labels"]


def read_weights(path: Path) -> dict[str, Tensor]:
    """Return the tensors of a safetensors file by name; raise FileNotFoundError or ValueError."""
    try:
        return load_file(path)
    except SafetensorError as error:
        raise ValueError(f"{path.name} is damaged or not a safetensors file: {error}") from error


class DigitTask:
    """Classifies images of handwritten digits, or of the classes that the network was trained on."""

    def __init__(
        self, backend: Backend, device: torch.device, labels: list[str], golden: Golden
    ) -> None:
        self.backend, self.device, self.labels, self.golden = backend, device, labels, golden

    def preprocess(self, instance: JSON) -> Tensor:
        """Return an image in any accepted shape as (1, 28, 28) uint8; raise BadInstance."""
        return normalise(decode_instance(instance)).unsqueeze(0)

    def inference(self, batch: Tensor) -> Tensor:
        """Return (N, classes) probabilities for (N, 1, 28, 28) uint8 images."""
        return self.backend(batch.to(self.device) / 255).softmax(dim=1)

    def postprocess(self, row: Tensor, parameters: dict[str, JSON]) -> dict[str, Any]:
        """Return the label, its score and the top k scores for (classes,) probabilities."""
        scores, classes = row.topk(self._top_k(parameters))
        ranked = {
            self.labels[index]: round(score, 6)
            for index, score in zip(classes.tolist(), scores.tolist(), strict=True)
        }
        label = next(iter(ranked))
        return {"label": label, "score": ranked[label], "scores": ranked}

    def _top_k(self, parameters: dict[str, JSON]) -> int:
        if unknown := parameters.keys() - {"top_k"}:
            raise BadParameter(f"{min(unknown)[:20]}: unknown parameter; expected top_k")
        top_k = parameters.get("top_k", TOP_K)
        # The Python SDK sends every number as a float.
        if type(top_k) not in (int, float) or top_k != top_k // 1 or top_k < 1:
            got = json.dumps(top_k)[:20]
            raise BadParameter(f"top_k: expected a whole number of at least 1; got {got}")
        return int(min(top_k, len(self.labels)))
