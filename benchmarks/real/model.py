"""A typical image classifier: a photograph in, the most likely of a thousand classes out.

The weights are random, because the time of a prediction does not depend on them.
"""

import json
from pathlib import Path
from typing import Any

import torch
from network import SIDE, create_network
from PIL import Image
from torch import Tensor, nn

import task.backends
from task import JSON
from task.images import read_image

TOP_K = 5
CROP_RATIO = 0.875
"""The side of the centre crop, as a part of the shorter side: the usual 224 of 256."""
MEAN, STD = (123.675, 116.28, 103.53), (58.395, 57.12, 57.375)
"""Mean and standard deviation of ImageNet's pixels, from 0 to 255."""


def load(folder: Path, device: torch.device) -> "PhotographTask":
    """Create the network; config.json may have the number of its layers."""
    file = folder / "config.json"
    config = json.loads(file.read_text()) if file.is_file() else {}
    return PhotographTask(create_network(**config).to(device), folder, device)


class PhotographTask:
    """Predicts the class of a photograph."""

    def __init__(self, net: nn.Module, folder: Path, device: torch.device) -> None:
        example = torch.zeros(1, 3, SIDE, SIDE, device=device)
        channels_last = example.contiguous(memory_format=torch.channels_last)
        self.backend = task.backends.load_backend(net, folder, channels_last)
        self.network, self.device = net, device
        self._mean = torch.tensor(MEAN, device=device).view(3, 1, 1)
        self._std = torch.tensor(STD, device=device).view(3, 1, 1)

    def preprocess(self, instance: JSON) -> Tensor:
        """Turn {"b64": a picture} into (224, 224, 3) uint8, a scaled centre crop; raise BadInstance."""
        picture = read_image(instance, "RGB", draft_side=2 * SIDE)
        width, height = picture.size
        side = min(width, height) * CROP_RATIO
        left, top = (width - side) / 2, (height - side) / 2
        centre = (left, top, left + side, top + side)
        bilinear = Image.Resampling.BILINEAR
        small = picture.resize((SIDE, SIDE), bilinear, centre, reducing_gap=2.0)
        return torch.frombuffer(bytearray(small.tobytes()), dtype=torch.uint8).view(SIDE, SIDE, 3)

    def inference(self, batch: Tensor) -> Tensor:
        """Turn (N, 224, 224, 3) uint8 into (N, classes) probabilities."""
        return self.backend(self.normalise(batch)).softmax(1)

    def normalise(self, batch: Tensor) -> Tensor:
        """Turn (N, 224, 224, 3) uint8 into (N, 3, 224, 224) float32, the network's input."""
        pixels = batch.to(self.device).permute(0, 3, 1, 2).float()
        return pixels.sub_(self._mean).div_(self._std)

    def postprocess(self, row: Tensor, parameters: dict[str, JSON]) -> dict[str, Any]:  # noqa: ARG002
        """Turn (classes,) probabilities into the most likely class, and the five most likely.

        With random weights some scores are nearly equal, so their order may depend on the backend and the
        batch size. The highest score leads by far: the golden request expects only its class.
        """
        scores, classes = row.topk(TOP_K)
        return {
            "class": int(classes[0]),
            "classes": classes.tolist(),
            "scores": [round(score, 6) for score in scores.tolist()],
        }
