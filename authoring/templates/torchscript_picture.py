"""Serve a TorchScript file that takes pictures: forward(x: Tensor)."""

from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from task import JSON
from task.images import read_image

SIDE, CHANNELS = 224, 3
MEAN, STD = (0.0, 0.0, 0.0), (1.0, 1.0, 1.0)
"""As in training. Networks for ImageNet have (0.485, 0.456, 0.406) and (0.229, 0.224, 0.225)."""


def load(folder: Path, device: torch.device) -> "TorchScriptModel":
    """Load the TorchScript file from a folder onto a device."""
    return TorchScriptModel(torch.jit.load(folder / "model.pt", map_location=device).eval())


class TorchScriptModel:
    """Takes a picture, and returns what the network returns."""

    accepts = ("image/png", "image/jpeg", "image/webp")

    def __init__(self, model: Any) -> None:
        self.model = model

    def preprocess(self, instance: JSON) -> Tensor:
        """Return the pixels of a picture, (CHANNELS, SIDE, SIDE); raise BadInstance."""
        image = read_image(instance, "L" if CHANNELS == 1 else "RGB")
        pixels = torch.tensor(np.array(image.resize((SIDE, SIDE)))) / 255
        mean, std = torch.tensor(MEAN[:CHANNELS]), torch.tensor(STD[:CHANNELS])
        return ((pixels.view(SIDE, SIDE, CHANNELS) - mean) / std).permute(2, 0, 1)

    def inference(self, batch: Tensor) -> Any:
        """Return the outputs of the network."""
        return self.model(batch)

    def postprocess(self, output: Any) -> Any:
        """Return the prediction for one output: name its parts or labels here. Tensors become arrays."""
        return output
