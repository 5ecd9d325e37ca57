"""Photographs in, the likeliest of a thousand classes out: a typical image classifier.

The weights are drawn, not trained: what an answer costs does not depend on them. The imports are
relative because this folder is the package `model` in an archive.
"""

import json
from pathlib import Path
from typing import Any

import torch
from PIL import Image
from torch import Tensor

import task.backends
from task import JSON, Golden
from task.images import read_image

from . import network
from .network import SIDE

TOP_K = 5
CROPPED = 0.875
"""How much of the shorter side is kept, in the middle: 224 of 256 in the usual words."""
MEAN, SPREAD = (123.675, 116.28, 103.53), (58.395, 57.12, 57.375)
"""Of ImageNet's pixels, from 0 to 255, as every network trained on it takes them."""


def load(folder: Path, device: torch.device) -> "PhotographTask":
    """Draw the weights, and load golden.json."""
    net = network.drawn().to(device)
    golden = Golden(**json.loads((folder / "golden.json").read_text()))
    return PhotographTask(net, folder, device, golden)


class PhotographTask:
    """The classes of a photograph."""

    def __init__(
        self, net: torch.nn.Module, folder: Path, device: torch.device, golden: Golden
    ) -> None:
        example = torch.zeros(1, 3, SIDE, SIDE, device=device)
        channels_last = example.contiguous(memory_format=torch.channels_last)
        self.backend = task.backends.load_backend(net, folder, channels_last)
        self.device, self.golden = device, golden
        self._mean = torch.tensor(MEAN, device=device).view(3, 1, 1)
        self._spread = torch.tensor(SPREAD, device=device).view(3, 1, 1)

    def preprocess(self, instance: JSON) -> Tensor:
        """Turn {"b64": a picture} into (224, 224, 3) uint8, its middle scaled; raise BadInstance."""
        picture = read_image(instance, "RGB", draft_side=2 * SIDE)
        width, height = picture.size
        side = min(width, height) * CROPPED
        left, top = (width - side) / 2, (height - side) / 2
        middle = (left, top, left + side, top + side)
        bilinear = Image.Resampling.BILINEAR
        small = picture.resize((SIDE, SIDE), bilinear, middle, reducing_gap=2.0)
        return torch.frombuffer(bytearray(small.tobytes()), dtype=torch.uint8).view(SIDE, SIDE, 3)

    def inference(self, batch: Tensor) -> Tensor:
        """Turn (N, 224, 224, 3) uint8 into (N, classes) probabilities."""
        return self.backend(self.normalised(batch)).softmax(1)

    def normalised(self, batch: Tensor) -> Tensor:
        """Turn (N, 224, 224, 3) uint8 into (N, 3, 224, 224) float32 as the network takes it."""
        pixels = batch.to(self.device).permute(0, 3, 1, 2).float()
        return pixels.sub_(self._mean).div_(self._spread)

    def postprocess(self, row: Tensor, parameters: dict[str, JSON]) -> dict[str, Any]:  # noqa: ARG002
        """Turn (classes,) probabilities into the likeliest class, and the five likeliest.

        Drawn weights give some classes nearly the same score, so that another backend or batch size
        may rank them otherwise; the likeliest leads by far and is what the golden request expects.
        """
        scores, classes = row.topk(TOP_K)
        return {
            "class": int(classes[0]),
            "classes": classes.tolist(),
            "scores": [round(score, 6) for score in scores.tolist()],
        }
