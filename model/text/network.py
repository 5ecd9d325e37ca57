"""The network: one transformer layer over subwords, averaged and classified by language."""

from torch import Tensor, nn

LABELS = ("cs", "da", "de", "en", "es", "fi", "fr", "it", "nl", "pl", "pt", "tr")
"""Languages, as ISO 639 abbreviates them."""
VOCABULARY, WIDTH = 1500, 48


class LanguageNet(nn.Module):
    """Without an embedding of positions: the subwords alone are enough for a language."""

    def __init__(self) -> None:
        super().__init__()
        self.embed = nn.Embedding(VOCABULARY, WIDTH, padding_idx=0)
        self.encode = nn.TransformerEncoderLayer(WIDTH, 4, 2 * WIDTH, batch_first=True)
        self.classify = nn.Linear(WIDTH, len(LABELS))

    def forward(self, ids: Tensor, mask: Tensor) -> Tensor:
        """Return (N, languages) logits for (N, L) subwords; the mask is 1 where there is a subword."""
        hidden = self.encode(self.embed(ids), src_key_padding_mask=mask == 0)
        weights = mask.unsqueeze(2)
        return self.classify((hidden * weights).sum(1) / weights.sum(1))
