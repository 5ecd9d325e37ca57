"""Classify texts: a tokenizer, two tensors of any length, padding, and passes of like length."""

from pathlib import Path
from typing import TypedDict

import torch
from network import LABELS, LanguageNet
from safetensors.torch import load_file
from tokenizers import Tokenizer
from torch import Tensor

from task import BadInstance, pad

MAX_TOKENS = 256  # longer texts are truncated


class Prediction(TypedDict):
    """The label and its probability."""

    label: str
    score: float


def load(folder: Path, device: torch.device) -> "LanguageClassifier":
    """Load the tokenizer and the network's weights from a folder onto a device."""
    tokenizer = Tokenizer.from_file(str(folder / "tokenizer.json"))
    tokenizer.enable_truncation(MAX_TOKENS)
    network = LanguageNet()
    network.load_state_dict(load_file(folder / "weights.safetensors"))
    return LanguageClassifier(tokenizer, network.eval().to(device))


class LanguageClassifier:
    """Names the language of a text."""

    labels, accepts = LABELS, ("text/plain",)
    collate = staticmethod(pad)

    def __init__(self, tokenizer: Tokenizer, model: LanguageNet) -> None:
        self.tokenizer, self.model = tokenizer, model

    def preprocess(self, instance: str) -> dict[str, Tensor]:
        """Return the subwords of a text, (L,), and a mask of ones, which padding extends by zeros."""
        ids = self.tokenizer.encode(instance).ids
        if not ids:
            raise BadInstance("the text is empty; expected a sentence or more")
        return {"ids": torch.tensor(ids), "mask": torch.ones(len(ids))}

    def size(self, sample: dict[str, Tensor]) -> int:
        """Return the number of subwords: texts of like length share a pass."""
        return len(sample["ids"])

    def inference(self, batch: dict[str, Tensor]) -> Tensor:
        """Return (N, languages) probabilities for (N, L) subwords."""
        return self.model(**batch).softmax(1)

    def postprocess(self, output: Tensor) -> Prediction:
        """Return the most probable language."""
        score, index = output.max(0)
        return {"label": LABELS[index], "score": score}
