"""The network: four transformer layers over words, averaged and classified, with random weights."""

import torch
from torch import Tensor, nn

VOCABULARY, WIDTH, HEADS, LAYERS, TOPICS = 20_000, 64, 4, 4, 12


class TextNet(nn.Module):
    """(N, L) words and a mask of ones, zeros where a text is padded -> (N, topics) logits."""

    def __init__(self) -> None:
        super().__init__()
        self.embed = nn.Embedding(VOCABULARY, WIDTH, padding_idx=0)
        layer = nn.TransformerEncoderLayer(WIDTH, HEADS, 4 * WIDTH, batch_first=True)
        self.encode = nn.TransformerEncoder(layer, LAYERS, enable_nested_tensor=False)
        self.classify = nn.Linear(WIDTH, TOPICS)

    @classmethod
    def create(cls, seed: int = 0) -> "TextNet":
        """Return a network with random weights from a seed, in evaluation mode."""
        torch.manual_seed(seed)
        return cls().eval()

    def forward(self, ids: Tensor, mask: Tensor) -> Tensor:
        """Return the logits of each text."""
        hidden = self.encode(self.embed(ids), src_key_padding_mask=mask == 0)
        weights = mask.unsqueeze(2)
        return self.classify((hidden * weights).sum(1) / weights.sum(1))  # type: ignore[no-any-return]
