"""Classify pictures with a network and an image processor of Hugging Face transformers."""

from pathlib import Path
from typing import Any, TypedDict

import torch
from torch import Tensor
from transformers import AutoImageProcessor, AutoModelForImageClassification
from transformers.utils.logging import disable_progress_bar

from task import JSON
from task.images import read_image

TOP_K = 5


class Parameters(TypedDict, total=False):
    """The number of labels in a prediction."""

    top_k: int


class Prediction(TypedDict):
    """The most probable label, and the probabilities of the best ones."""

    label: str
    score: float
    scores: dict[str, float]


def load(folder: Path, device: torch.device) -> "ImageClassifier":
    """Load the image processor and the network from a folder onto a device."""
    disable_progress_bar()
    network = AutoModelForImageClassification.from_pretrained(folder, dtype=torch.float32)
    return ImageClassifier(AutoImageProcessor.from_pretrained(folder), network.eval().to(device))


class ImageClassifier:
    """Classifies pictures into the labels of config.json."""

    accepts = ("image/png", "image/jpeg", "image/webp")

    def __init__(self, processor: Any, model: Any) -> None:
        self.processor, self.model = processor, model
        self.labels = [label for _, label in sorted(model.config.id2label.items())]

    def preprocess(self, instance: JSON) -> Tensor:
        """Return the pixels of a picture, resized and normalized as in training."""
        image = read_image(instance, "RGB")
        return self.processor(image, return_tensors="pt")["pixel_values"][0]

    def inference(self, batch: Tensor) -> Tensor:
        """Return (N, labels) probabilities for (N, 3, H, W) pixels."""
        return self.model(batch).logits.softmax(1)

    def postprocess(self, output: Tensor, parameters: Parameters) -> Prediction:
        """Return the best labels with their probabilities."""
        count = max(1, min(parameters.get("top_k", TOP_K), len(self.labels)))
        best = output.argsort(descending=True)[:count].tolist()
        scores = {self.labels[index]: float(output[index]) for index in best}
        return {"label": next(iter(scores)), "score": max(scores.values()), "scores": scores}
