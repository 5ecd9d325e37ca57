"""The network: two layers, after one that standardizes the features."""

from torch import nn

LABELS = ("malignant", "benign")
FEATURES = 10


def build_network() -> nn.Sequential:
    """Return a network for (N, 10) features with (N, 2) logits."""
    standardize = nn.BatchNorm1d(FEATURES, affine=False, momentum=None)
    return nn.Sequential(
        standardize, nn.Linear(FEATURES, 16), nn.ReLU(), nn.Linear(16, len(LABELS))
    )
