"""The network: a recurrent network that predicts the next character."""

import itertools
import string
from collections.abc import Iterator

import torch
from torch import Tensor, nn

CHARACTERS = "\n" + string.printable[:95]
"""A character's token is its position here."""
HIDDEN = 160


class TextNet(nn.Module):
    """One recurrent layer over embedded characters."""

    def __init__(self) -> None:
        super().__init__()
        self.embed = nn.Embedding(len(CHARACTERS), 64)
        self.recur = nn.GRU(64, HIDDEN, batch_first=True)
        self.head = nn.Linear(HIDDEN, len(CHARACTERS))

    def forward(self, tokens: Tensor, state: Tensor | None = None) -> tuple[Tensor, Tensor]:
        """Return (N, L, characters) logits for (N, L) tokens, and the state to continue from."""
        hidden, state = self.recur(self.embed(tokens), state)
        return self.head(hidden), state

    def generate(self, batch: dict[str, Tensor]) -> Iterator[Tensor]:
        """Yield the tokens of N texts, (N,) at a time: those of the prompts, then without an end.

        The batch has `prompt` (N, L), its length `start`, `temperature` and `seed`, (N,) each.
        """
        batch = {name: each.to(self.head.weight.device) for name, each in batch.items()}
        randoms = [torch.Generator().manual_seed(int(seed)) for seed in batch["seed"]]
        prompt, lengths = batch["prompt"], batch["start"].unsqueeze(1)
        tokens, state = prompt[:, :1], None
        for step in itertools.count(1):
            yield tokens[:, 0]
            logits, state = self(tokens, state)
            # The largest sum of a logit and Gumbel noise is a sample of the softmax; without noise, the best.
            uniform = torch.stack([torch.rand(len(CHARACTERS), generator=each) for each in randoms])
            noise = -torch.log(-uniform.to(logits.device).log())
            chosen = logits[:, 0] + batch["temperature"].unsqueeze(1) * noise
            given = prompt[:, min(step, prompt.shape[1] - 1), None]
            tokens = torch.where(step < lengths, given, chosen.argmax(1, keepdim=True))
