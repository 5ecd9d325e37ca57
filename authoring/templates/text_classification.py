"""Classify texts with a network and a tokenizer of Hugging Face transformers."""

from pathlib import Path
from typing import Any, TypedDict

import torch
from torch import Tensor
from transformers import AutoModelForSequenceClassification, AutoTokenizer
from transformers.utils.logging import disable_progress_bar

from task import BadInstance, pad

MAX_TOKENS = 512  # longer texts are truncated


class Prediction(TypedDict):
    """The most probable label, and the probabilities of all."""

    label: str
    score: float
    scores: dict[str, float]


def load(folder: Path, device: torch.device) -> "TextClassifier":
    """Load the tokenizer and the network from a folder onto a device."""
    disable_progress_bar()
    network = AutoModelForSequenceClassification.from_pretrained(folder, dtype=torch.float32)
    return TextClassifier(AutoTokenizer.from_pretrained(folder), network.eval().to(device))


class TextClassifier:
    """Classifies texts into the labels of config.json."""

    accepts = ("text/plain",)

    def __init__(self, tokenizer: Any, model: Any) -> None:
        self.tokenizer, self.model = tokenizer, model
        self.labels = [label for _, label in sorted(model.config.id2label.items())]
        positions = getattr(model.config, "max_position_embeddings", MAX_TOKENS)
        self.max_tokens = min(MAX_TOKENS, positions, tokenizer.model_max_length)

    def preprocess(self, instance: str) -> dict[str, Tensor]:
        """Return the tensors of the tokenizer, (L,) each."""
        encoded = self.tokenizer(instance, truncation=True, max_length=self.max_tokens)
        if not encoded["input_ids"]:
            raise BadInstance("the text is empty; expected a word or more")
        return {name: torch.tensor(values) for name, values in encoded.items()}

    def collate(self, samples: list[dict[str, Tensor]]) -> dict[str, Tensor]:
        """Pad the texts of a batch to the longest."""
        return pad(samples, {"input_ids": self.tokenizer.pad_token_id or 0})

    def size(self, sample: dict[str, Tensor]) -> int:
        """Return the number of tokens: texts of like length share a pass."""
        return len(sample["input_ids"])

    def inference(self, batch: dict[str, Tensor]) -> Tensor:
        """Return (N, labels) probabilities."""
        logits = self.model(**batch).logits
        is_multi = self.model.config.problem_type == "multi_label_classification"
        return logits.sigmoid() if is_multi or len(self.labels) == 1 else logits.softmax(1)

    def postprocess(self, output: Tensor) -> Prediction:
        """Return the labels with their probabilities, the best first."""
        order = output.argsort(descending=True).tolist()
        scores = {self.labels[index]: float(output[index]) for index in order}
        return {"label": next(iter(scores)), "score": max(scores.values()), "scores": scores}
