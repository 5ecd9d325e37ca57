"""Find faces in a picture: a threshold that the model reads, and any number of boxes."""

from pathlib import Path
from typing import Any, TypedDict

import torch
from network import FaceNet
from picture import fit
from safetensors.torch import load_file
from torch import Tensor

from task.images import read_image


class Parameters(TypedDict, total=False):
    """The score, from 0 to 1, that a face has to have."""

    threshold: float


class Face(TypedDict):
    """A box, [left, top, right, bottom] in the picture's pixels."""

    box: list[int]
    label: str
    score: float


def load(folder: Path, device: torch.device) -> "FaceDetector":
    """Load the networks' weights from a folder onto a device."""
    network = FaceNet()
    network.load_state_dict(load_file(folder / "mtcnn.safetensors"))
    return FaceDetector(network.eval().to(device))


class FaceDetector:
    """Finds faces, with their corners in the picture's pixels."""

    accepts = ("image/png", "image/jpeg", "image/webp")

    def __init__(self, model: FaceNet) -> None:
        self.model = model

    def preprocess(self, instance: Any, parameters: Parameters) -> dict[str, Any]:
        """Return the pixels, (3, 320, 320) uint8, with the scale and the threshold."""
        pixels, scale = fit(read_image(instance, "RGB"))
        return {"pixels": pixels, "scale": scale, "threshold": parameters.get("threshold", 0.9)}

    def inference(self, batch: dict[str, Tensor]) -> list[dict[str, Tensor]]:
        """Return the boxes and scores of each picture."""
        threshold = batch["threshold"].float()
        owner, boxes, scores = self.model((batch["pixels"] - 127.5) / 128, threshold)
        boxes = boxes * batch["scale"].float()[owner, None]
        masks = [owner == index for index in range(len(threshold))]
        return [{"boxes": boxes[mask], "scores": scores[mask]} for mask in masks]

    def postprocess(self, output: dict[str, Tensor]) -> list[Face]:
        """Return the faces, the best first."""
        pairs = zip(output["boxes"].round().int().tolist(), output["scores"].tolist(), strict=True)
        return [{"box": box, "label": "face", "score": score} for box, score in pairs]
