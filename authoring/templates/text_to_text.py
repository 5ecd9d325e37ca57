"""Turn texts into texts, such as summaries or translations, with a network of Hugging Face transformers."""

from pathlib import Path
from typing import Any, TypedDict

import torch
from torch import Tensor
from transformers import AutoModelForSeq2SeqLM, AutoTokenizer
from transformers.utils.logging import disable_progress_bar

from task import BadInstance, BadParameter, pad

MAX_INPUT_TOKENS, MAX_TOKENS = 512, 512


class Parameters(TypedDict, total=False):
    """The number of tokens that the new text may have."""

    max_tokens: int


def load(folder: Path, device: torch.device) -> "TextWriter":
    """Load the tokenizer and the network from a folder onto a device."""
    disable_progress_bar()
    network = AutoModelForSeq2SeqLM.from_pretrained(folder, dtype=torch.float32)
    return TextWriter(AutoTokenizer.from_pretrained(folder), network.eval().to(device))


class TextWriter:
    """Writes a text for a text."""

    accepts = ("text/plain",)

    def __init__(self, tokenizer: Any, model: Any) -> None:
        self.tokenizer, self.model = tokenizer, model

    def preprocess(self, instance: str, parameters: Parameters) -> dict[str, Any]:
        """Return the tokens of a text, (L,), a mask of ones, and the number of new tokens."""
        options = {"truncation": True, "max_length": MAX_INPUT_TOKENS}
        ids = torch.tensor(self.tokenizer(instance, **options)["input_ids"], dtype=torch.long)
        count = parameters.get("max_tokens", 64)
        if not len(ids):
            raise BadInstance("the text is empty; expected a word or more")
        if not 1 <= count <= MAX_TOKENS:
            raise BadParameter(f"max_tokens: expected 1 to {MAX_TOKENS}; got {count}")
        return {"ids": ids, "mask": torch.ones_like(ids), "max_tokens": count}

    def collate(self, samples: list[dict[str, Any]]) -> dict[str, Tensor]:
        """Pad the texts of a batch to the longest."""
        return pad(samples, {"ids": self.tokenizer.pad_token_id or 0})

    def size(self, sample: dict[str, Any]) -> int:
        """Return the number of tokens: texts of like length share a pass."""
        return len(sample["ids"]) + int(sample["max_tokens"])

    def inference(self, batch: dict[str, Tensor]) -> list[Tensor]:
        """Return the tokens of the new texts, the most probable at each step."""
        inputs = {"input_ids": batch["ids"], "attention_mask": batch["mask"]}
        limit = int(batch["max_tokens"].max())
        texts = self.model.generate(**inputs, max_new_tokens=limit, do_sample=False, num_beams=1)
        return [text[: count + 1] for text, count in zip(texts, batch["max_tokens"], strict=True)]

    def postprocess(self, output: Tensor) -> str:
        """Return the new text."""
        return self.tokenizer.decode(output.tolist(), skip_special_tokens=True)
