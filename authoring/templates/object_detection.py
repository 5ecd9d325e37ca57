"""Find objects in pictures with a pipeline of Hugging Face transformers over this folder."""

from pathlib import Path
from typing import Any, TypedDict

import torch
from PIL import Image
from transformers import pipeline
from transformers.utils.logging import disable_progress_bar

from task import JSON
from task.images import read_image

THRESHOLD = 0.5


class Parameters(TypedDict, total=False):
    """The score, from 0 to 1, that an object has to have."""

    threshold: float


class Found(TypedDict):
    """A box, [left, top, right, bottom] in the picture's pixels."""

    box: list[int]
    label: str
    score: float


def load(folder: Path, device: torch.device) -> "ObjectDetector":
    """Load the image processor and the network from a folder onto a device."""
    disable_progress_bar()
    options = {"dtype": torch.float32, "device": device}
    return ObjectDetector(pipeline("object-detection", str(folder), **options))


class ObjectDetector:
    """Finds objects with the labels of config.json."""

    accepts = ("image/png", "image/jpeg", "image/webp")

    def __init__(self, run: Any) -> None:
        self.run = run

    def preprocess(self, instance: JSON) -> Image.Image:
        """Return the picture: the pipeline resizes and pads it."""
        return read_image(instance, "RGB")

    def collate(self, samples: list[Image.Image]) -> list[Image.Image]:
        """Keep the pictures apart: they differ in size."""
        return samples

    def inference(self, batch: list[Image.Image]) -> list[Any]:
        """Return all boxes of each picture."""
        return self.run(batch, threshold=0.0)

    def postprocess(self, output: list[dict[str, Any]], parameters: Parameters) -> list[Found]:
        """Return the boxes with a score of at least the threshold, the best first."""
        threshold = parameters.get("threshold", THRESHOLD)
        kept = [each for each in output if each["score"] >= threshold]
        kept.sort(key=lambda each: -each["score"])
        sides = ("xmin", "ymin", "xmax", "ymax")
        return [{**each, "box": [each["box"][side] for side in sides]} for each in kept]
