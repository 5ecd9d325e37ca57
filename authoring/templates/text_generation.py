"""Continue texts with a causal language model of Hugging Face transformers."""

from collections.abc import Iterator
from pathlib import Path
from typing import Any, TypedDict

import torch
from torch import Tensor
from transformers import AutoModelForCausalLM, AutoTokenizer
from transformers.utils.logging import disable_progress_bar

from task import BadInstance, BadParameter, pad

MAX_TOKENS, MAX_PROMPT_TOKENS = 512, 1024


class Parameters(TypedDict, total=False):
    """How to continue a text. Temperature 0 takes the most probable token every time."""

    max_tokens: int
    temperature: float
    seed: int


def load(folder: Path, device: torch.device) -> "TextGenerator":
    """Load the tokenizer and the network from a folder onto a device."""
    disable_progress_bar()
    network = AutoModelForCausalLM.from_pretrained(folder)
    return TextGenerator(AutoTokenizer.from_pretrained(folder), network.eval().to(device))


class TextGenerator:
    """Continues texts, a token at a time."""

    accepts = ("text/plain",)

    def __init__(self, tokenizer: Any, model: Any) -> None:
        self.tokenizer, self.model = tokenizer, model

    def preprocess(self, instance: str, parameters: Parameters) -> dict[str, Any]:
        """Return the tokens of the prompt, (L,), a mask of ones, and the parameters."""
        ids = torch.tensor(self.tokenizer(instance)["input_ids"], dtype=torch.long)
        if not 1 <= len(ids) <= MAX_PROMPT_TOKENS:
            raise BadInstance(f"expected 1 to {MAX_PROMPT_TOKENS} tokens; got {len(ids)}")
        count, temperature = parameters.get("max_tokens", 50), parameters.get("temperature", 0.0)
        if not 1 <= count <= MAX_TOKENS:
            raise BadParameter(f"max_tokens: expected 1 to {MAX_TOKENS}; got {count}")
        if not 0 <= temperature <= 2:
            raise BadParameter(f"temperature: expected 0 to 2; got {temperature}")
        sampling = {"temperature": temperature, "seed": parameters.get("seed", 0) % 2**32}
        return {"ids": ids, "mask": torch.ones_like(ids), "max_tokens": count, **sampling}

    def collate(self, samples: list[dict[str, Any]]) -> dict[str, Tensor]:
        """Pad the prompts of a batch at their start."""
        names = ("ids", "mask")
        batch = pad([{**each, **{name: each[name].flip(0) for name in names}} for each in samples])
        return {**batch, **{name: batch[name].flip(1) for name in names}}

    def size(self, sample: dict[str, Any]) -> int:
        """Return the number of tokens: texts of like length share a pass."""
        return len(sample["ids"]) + int(sample["max_tokens"])

    def inference(self, batch: dict[str, Tensor]) -> list[Tensor]:
        """Return the new tokens of each text."""
        texts = torch.stack(list(self._generate(batch)), 1)
        return [text[:count] for text, count in zip(texts, batch["max_tokens"], strict=True)]

    def postprocess(self, output: Tensor) -> str:
        """Return the text that continues the prompt."""
        return self.tokenizer.decode(self._cut(output.tolist()), skip_special_tokens=True)

    def stream(self, sample: dict[str, Any]) -> Iterator[str]:
        """Yield the text piece by piece, as soon as a piece is complete."""
        tokens, text, sent = [], "", 0
        for each in self._generate(self.collate([sample])):
            tokens.append(int(each))
            text = self.tokenizer.decode(self._cut(tokens), skip_special_tokens=True)
            if len(text) > sent and not text.endswith("\ufffd"):  # a part of a character
                yield text[sent:]
                sent = len(text)
        if len(text) > sent or not text:
            yield text[sent:]

    def _cut(self, tokens: list[int]) -> list[int]:
        end = self.tokenizer.eos_token_id
        return tokens[: tokens.index(end)] if end in tokens else tokens

    def _generate(self, batch: dict[str, Tensor]) -> Iterator[Tensor]:
        """Yield the next token of each of N texts, (N,), until all have ended."""
        batch = {name: each.to(self.model.device) for name, each in batch.items()}
        randoms = [torch.Generator().manual_seed(int(seed)) for seed in batch["seed"]]
        tokens, mask, cache = batch["ids"], batch["mask"], None
        ended = torch.zeros(len(tokens), dtype=torch.bool, device=tokens.device)
        for _ in range(int(batch["max_tokens"].max())):
            places = (mask.cumsum(1) - 1).clamp(min=0)[:, -tokens.shape[1] :]
            inputs = {"input_ids": tokens, "attention_mask": mask, "position_ids": places}
            output = self.model(**inputs, past_key_values=cache, use_cache=True)
            cache, logits = output.past_key_values, output.logits[:, -1].float()
            # The largest sum of a logit and Gumbel noise is a sample of the softmax; without noise, the best.
            uniform = torch.stack([torch.rand(logits.shape[1], generator=each) for each in randoms])
            noise = -torch.log(-uniform.to(logits.device).log())
            chosen = (logits + batch["temperature"].unsqueeze(1) * noise).argmax(1)
            yield chosen
            ended |= chosen == self.tokenizer.eos_token_id
            if ended.all():
                return
            tokens, mask = chosen.unsqueeze(1), torch.cat([mask, torch.ones_like(mask[:, :1])], 1)
