"""Embed texts with a network of Hugging Face transformers: the mean over the tokens of a text."""

from pathlib import Path
from typing import Any, TypedDict

import torch
from torch import Tensor
from torch.nn.functional import normalize
from transformers import AutoModel, AutoTokenizer
from transformers.utils.logging import disable_progress_bar

from task import BadInstance, pad

MAX_TOKENS = 256  # longer texts are truncated


class Parameters(TypedDict, total=False):
    """Whether the floats are scaled to a vector of length 1, which is the default."""

    normalize: bool


def load(folder: Path, device: torch.device) -> "Embedder":
    """Load the tokenizer and the model from a folder onto a device."""
    disable_progress_bar()
    tokenizer = AutoTokenizer.from_pretrained(folder, model_max_length=MAX_TOKENS)
    return Embedder(tokenizer, AutoModel.from_pretrained(folder).eval().to(device))


class Embedder:
    """Returns floats for a text: close to those of a text of like meaning."""

    collate = staticmethod(pad)
    accepts = ("text/plain",)

    def __init__(self, tokenizer: Any, model: Any) -> None:
        self.tokenizer, self.model = tokenizer, model

    def preprocess(self, instance: str) -> dict[str, Tensor]:
        """Return the tensors of the tokenizer, each (L,), among them the mask."""
        encoded = self.tokenizer(instance, truncation=True)
        if not encoded["input_ids"]:
            raise BadInstance("the text is empty; expected a word or more")
        return {name: torch.tensor(ids) for name, ids in encoded.items()}

    def size(self, sample: dict[str, Tensor]) -> int:
        """Return the number of tokens: texts of like length share a pass."""
        return len(sample["input_ids"])

    def inference(self, batch: dict[str, Tensor]) -> Tensor:
        """Return (N, width): the mean over the tokens of each text, without the padding."""
        hidden = self.model(**batch).last_hidden_state
        mask = batch["attention_mask"].unsqueeze(2)
        return (hidden * mask).sum(1) / mask.sum(1)

    def postprocess(self, output: Tensor, parameters: Parameters) -> list[float]:
        """Return the floats of one text."""
        scaled = normalize(output, dim=0) if parameters.get("normalize", True) else output
        return scaled.tolist()
