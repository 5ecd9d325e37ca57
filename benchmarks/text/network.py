"""The network: transformer layers over words, averaged and classified, with random weights."""

import torch
from torch import Tensor, nn

TOPICS = 12


class TextNet(nn.Module):
    """(N, L) words and a mask of ones, zeros where a text is padded -> (N, topics) logits."""

    def __init__(
        self, vocabulary: int = 20_000, width: int = 64, heads: int = 4, layers: int = 4
    ) -> None:
        super().__init__()
        self.vocabulary = vocabulary
        self.embed = nn.Embedding(vocabulary, width, padding_idx=0)
        layer = nn.TransformerEncoderLayer(width, heads, 4 * width, batch_first=True)
        self.encode = nn.TransformerEncoder(layer, layers, enable_nested_tensor=False)
        self.classify = nn.Linear(width, TOPICS)

    @classmethod
    def create(cls, seed: int = 0, **sizes: int) -> "TextNet":
        """Return a network with random weights from a seed, in evaluation mode."""
        torch.manual_seed(seed)
        return cls(**sizes).eval()

    def forward(self, ids: Tensor, mask: Tensor) -> Tensor:
        """Return the logits of each text."""
        hidden = self.encode(self.embed(ids), src_key_padding_mask=mask == 0)
        weights = mask.unsqueeze(2)
        return self.classify((hidden * weights).sum(1) / weights.sum(1))  # type: ignore[no-any-return]
