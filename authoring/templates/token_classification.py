"""Find personal data in texts with a pipeline of Hugging Face transformers over this folder."""

from pathlib import Path
from typing import Any, TypedDict

import torch
from transformers import pipeline
from transformers.utils.logging import disable_progress_bar

from task import BadInstance

MAX_CHARACTERS = 1000
TASK = "token-classification"
"""config.json names the network, and this what it is used for: "text-classification", "fill-mask", ..."""


class Entity(TypedDict):
    """A part of the text, from character `start` to before `end`."""

    label: str
    text: str
    start: int
    end: int
    score: float


def load(folder: Path, device: torch.device) -> "EntityFinder":
    """Load the network, the tokenizer and their configuration from a folder onto a device."""
    disable_progress_bar()
    options = {"dtype": torch.float32, "aggregation_strategy": "first"}
    return EntityFinder(pipeline(TASK, str(folder), device=device, **options))


class EntityFinder:
    """Finds names of people, cities and companies."""

    accepts = ("text/plain",)

    def __init__(self, run: Any) -> None:
        self.run = run

    def preprocess(self, instance: str) -> str:
        """Return the text: the pipeline has a tokenizer, and pads the texts of a batch."""
        if not 1 <= len(instance) <= MAX_CHARACTERS:
            raise BadInstance(f"expected 1 to {MAX_CHARACTERS} characters; got {len(instance)}")
        return instance

    def size(self, sample: str) -> int:
        """Return the number of characters: texts of like length share a pass."""
        return len(sample)

    def inference(self, batch: list[str]) -> list[Any]:
        """Return the pipeline's result for each text."""
        return self.run(batch, batch_size=len(batch))

    def postprocess(self, output: list[dict[str, Any]]) -> list[Entity]:
        """Return the entities in the order of the text."""
        names = {"entity_group": "label", "word": "text"}
        return [{names.get(key, key): value for key, value in each.items()} for each in output]
