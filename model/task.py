"""What the handler calls: a digit's picture in, a label and its scores out.

This is the file to replace with your own; `task/__init__.py` says what it owes the handler.
"""

import json
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file
from torch import Tensor, nn

from model import network, picture
from model.normalise import normalise
from task import JSON, BadParameter, Golden
from task.backends import Backend, load_backend

TOP_K = 3
"""How many scores a prediction lists where `parameters.top_k` does not say."""


def load(folder: Path, device: torch.device) -> "DigitTask":
    """Load model.json, golden.json and weights.safetensors from a folder.

    Raises FileNotFoundError or ValueError with the reason if they do not fit this network;
    KeyError or RuntimeError if model.json lacks a name or a tensor has another shape.
    """
    net, labels = read_network(folder)
    example = torch.zeros(1, 1, network.SIDE, network.SIDE, device=device)
    golden = Golden(**json.loads((folder / "golden.json").read_text()))
    return DigitTask(load_backend(net.to(device), folder, example), device, labels, golden)


def read_network(folder: Path) -> tuple[nn.Module, list[str]]:
    """Load the network and its labels alone; raise as `load` does."""
    about = json.loads((folder / "model.json").read_text())
    if about["network_version"] != network.VERSION:
        raise ValueError(
            f"the weights are for network version {about['network_version']}, this code has "
            f"version {network.VERSION}: train again"
        )
    net = network.DigitNet(classes=len(about["labels"]))
    net.load_state_dict(read_weights(folder / "weights.safetensors"))
    return net.eval(), about["labels"]


def read_weights(path: Path) -> dict[str, Tensor]:
    """Return the tensors of a safetensors file by name; raise FileNotFoundError or ValueError."""
    try:
        return load_file(path)
    except SafetensorError as error:
        raise ValueError(f"{path.name} is no safetensors file, or is damaged: {error}") from error


class DigitTask:
    """Handwritten digits, or whatever classes the network was trained on."""

    def __init__(
        self, run: Backend, device: torch.device, labels: list[str], golden: Golden
    ) -> None:
        self.run, self.device, self.labels, self.golden = run, device, labels, golden

    def preprocess(self, instance: JSON) -> Tensor:
        """Turn a picture in any accepted shape into (1, 28, 28) uint8; raise BadInstance."""
        return normalise(picture.read(instance)).unsqueeze(0)

    def inference(self, batch: Tensor) -> Tensor:
        """Turn (N, 1, 28, 28) uint8 pictures into (N, classes) probabilities."""
        return self.run(batch.to(self.device) / 255).softmax(dim=1)

    def postprocess(self, row: Tensor, parameters: dict[str, JSON]) -> dict[str, Any]:
        """Turn (classes,) probabilities into the label, its score and the top k scores."""
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
            raise BadParameter(f"top_k: expected a whole number from 1 on; got {got}")
        return int(min(top_k, len(self.labels)))
