"""The digit network: four small convolutions and one linear layer, about 40,000 weights."""

import json
from pathlib import Path

from safetensors import SafetensorError
from safetensors.torch import load_file
from torch import Tensor, nn

VERSION = 1
"""Increases when the layers change, so that weights for other layers are rejected with a clear error."""

SIDE = 28
"""Height and width of the network's input, in pixels."""


class DigitNet(nn.Module):
    """(N, 1, 28, 28) float32 ink in [0, 1] -> (N, classes) float32 logits."""

    def __init__(self, classes: int) -> None:
        super().__init__()
        self.features = nn.Sequential(
            *_block(1, 16, kernel=5),
            nn.MaxPool2d(2),
            *_block(16, 32),
            *_block(32, 32),
            nn.MaxPool2d(2),
            *_block(32, 64),
            nn.AvgPool2d(3, stride=2),
            nn.Flatten(),
        )
        self.classify = nn.Sequential(nn.Dropout(0.3), nn.Linear(64 * 3 * 3, classes))

    def forward(self, ink: Tensor) -> Tensor:
        """Return the logits of each image."""
        logits: Tensor = self.classify(self.features(ink))
        return logits


def _block(channels_in: int, channels_out: int, kernel: int = 3) -> tuple[nn.Module, ...]:
    convolution = nn.Conv2d(channels_in, channels_out, kernel, padding=kernel // 2, bias=False)
    return convolution, nn.BatchNorm2d(channels_out), nn.ReLU()


def read_network(folder: Path) -> tuple[DigitNet, list[str]]:
    """Return the trained network, in evaluation mode, and its labels.

    Raises FileNotFoundError or ValueError if model.json or weights.safetensors do not fit this network,
    KeyError if model.json lacks a key, and RuntimeError if a tensor has another shape.
    """
    metadata = json.loads((folder / "model.json").read_text())
    if metadata["network_version"] != VERSION:
        raise ValueError(
            f"the weights are for network version {metadata['network_version']}, this code has "
            f"version {VERSION}: train again"
        )
    net = DigitNet(classes=len(metadata["labels"]))
    net.load_state_dict(read_weights(folder / "weights.safetensors"))
    net.eval()
    return net, metadata["labels"]


def read_weights(path: Path) -> dict[str, Tensor]:
    """Return the tensors of a safetensors file by name; raise FileNotFoundError or ValueError."""
    try:
        return load_file(path)
    except SafetensorError as error:
        raise ValueError(f"{path.name} is damaged or not a safetensors file: {error}") from error
