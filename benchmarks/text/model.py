"""A typical text classifier: a text of any length in, the most likely of a dozen topics out.

The weights are random, because the time of a prediction does not depend on them.
"""

import json
import re
import zlib
from pathlib import Path
from typing import TypedDict

import torch
from network import TextNet
from torch import Tensor

from task import BadInstance, pad

MAX_WORDS = 512
"""Longer texts are truncated."""
WORD = re.compile(r"\w+|[^\w\s]")


class Prediction(TypedDict):
    """The topic and its probability."""

    topic: int
    score: float


def load(folder: Path, device: torch.device) -> "TextClassifier":
    """Create the network; config.json may have its sizes."""
    file = folder / "config.json"
    config = json.loads(file.read_text()) if file.is_file() else {}
    return TextClassifier(TextNet.create(**config).to(device))


class TextClassifier:
    """Predicts the topic of a text."""

    collate = staticmethod(pad)

    def __init__(self, model: TextNet) -> None:
        self.model = model

    def preprocess(self, instance: str) -> dict[str, Tensor]:
        """Return the words of a text, (L,), as hashes, and a mask of ones, which padding extends by zeros."""
        words = WORD.findall(instance.lower())[:MAX_WORDS]
        if not words:
            raise BadInstance("the text is empty; expected a sentence or more")
        ids = [zlib.crc32(word.encode()) % (self.model.vocabulary - 1) + 1 for word in words]
        return {"ids": torch.tensor(ids), "mask": torch.ones(len(ids))}

    def size(self, sample: dict[str, Tensor]) -> int:
        """Return the number of words: texts of like length share a pass."""
        return len(sample["ids"])

    def inference(self, batch: dict[str, Tensor]) -> Tensor:
        """Return (N, topics) probabilities for (N, L) words."""
        return self.model(**batch).softmax(1)  # type: ignore[no-any-return]

    def postprocess(self, output: Tensor) -> Prediction:
        """Return the most probable topic."""
        score, index = output.max(0)
        return {"topic": int(index), "score": float(score)}
