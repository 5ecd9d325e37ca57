"""Predict a masked word with a pipeline of Hugging Face transformers over this folder."""

from pathlib import Path
from typing import Any, TypedDict

import torch
from transformers import pipeline
from transformers.utils.logging import disable_progress_bar

from task import BadInstance

MAX_CHARACTERS = 1000


class Word(TypedDict):
    """A word for the mask, and its probability."""

    label: str
    score: float


def load(folder: Path, device: torch.device) -> "WordPredictor":
    """Load the tokenizer and the network from a folder onto a device."""
    disable_progress_bar()
    options = {"dtype": torch.float32, "device": device}
    return WordPredictor(pipeline("fill-mask", str(folder), **options))


class WordPredictor:
    """Predicts the word that a text has in place of the mask."""

    accepts = ("text/plain",)

    def __init__(self, run: Any) -> None:
        self.run = run
        self.mask = run.tokenizer.mask_token

    def preprocess(self, instance: str) -> str:
        """Return the text: the pipeline has a tokenizer, and pads the texts of a batch."""
        if instance.count(self.mask) != 1 or len(instance) > MAX_CHARACTERS:
            raise BadInstance(f"expected one {self.mask} in up to {MAX_CHARACTERS} characters")
        return instance

    def size(self, sample: str) -> int:
        """Return the number of characters: texts of like length share a pass."""
        return len(sample)

    def inference(self, batch: list[str]) -> list[Any]:
        """Return the pipeline's result for each text."""
        found = self.run(batch, batch_size=len(batch))
        return found if isinstance(found[0], list) else [found]

    def postprocess(self, output: list[dict[str, Any]]) -> list[Word]:
        """Return the most probable words, the best first."""
        return [{"label": each["token_str"], "score": each["score"]} for each in output]
