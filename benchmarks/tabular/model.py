"""A typical model of named features: a row in, the probability of each of two labels out.

The weights, 5,570 of them, are random from a seed: the time of a prediction does not depend on them.
"""

from pathlib import Path
from typing import TypedDict

import torch
from torch import Tensor, nn

LABELS = ("stays", "leaves")
WIDTH = 64


class Features(TypedDict):
    """A customer of a shop."""

    age: float
    days_since_registration: float
    days_since_last_order: float
    days_since_last_visit: float
    orders: float
    orders_last_year: float
    returned_orders: float
    cancelled_orders: float
    mean_order_value: float
    highest_order_value: float
    discount_rate: float
    visits_last_month: float
    minutes_per_visit: float
    products_viewed: float
    products_in_cart: float
    reviews: float
    mean_rating: float
    complaints: float
    newsletters_opened: float


class Prediction(TypedDict):
    """The more probable label and its probability."""

    label: str
    score: float


def load(folder: Path, device: torch.device) -> "CustomerClassifier":  # noqa: ARG001
    """Create the network."""
    torch.manual_seed(0)
    network = nn.Sequential(
        nn.Linear(len(Features.__annotations__), WIDTH),
        nn.ReLU(),
        nn.Linear(WIDTH, WIDTH),
        nn.ReLU(),
        nn.Linear(WIDTH, len(LABELS)),
    )
    return CustomerClassifier(network.eval().to(device))


class CustomerClassifier:
    """Predicts whether a customer leaves."""

    labels = LABELS

    def __init__(self, model: nn.Module) -> None:
        self.model = model

    def preprocess(self, instance: Features) -> Tensor:
        """Return the features as a tensor, (19,), in the order of `Features`."""
        return torch.tensor([float(instance[name]) for name in Features.__annotations__])  # type: ignore[literal-required]

    def inference(self, batch: Tensor) -> Tensor:
        """Return (N, 2) probabilities for (N, 19) features."""
        return self.model(batch).softmax(1)  # type: ignore[no-any-return]

    def postprocess(self, output: Tensor) -> Prediction:
        """Return the more probable label."""
        score, index = output.max(0)
        return {"label": LABELS[int(index)], "score": float(score)}
