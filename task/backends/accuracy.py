"""How much the outputs of a backend differ from those of the network itself."""

import math

import torch
from torch import Tensor

from task.backends.builders import Backend

MAX_RELATIVE_ERROR = 0.02
"""Largest difference from the baseline's output, relative to the largest value in that output."""


def max_error(backend: Backend, baseline: Backend, example: Tensor) -> float:
    """Return the relative error of a backend's output for a random input of the example's shape."""
    batch = random_batch(example)
    with torch.inference_mode():
        return relative_error(backend(batch), baseline(batch))


def random_batch(example: Tensor) -> Tensor:
    """Return a tensor like the example with the same random values at each call; integers are 0."""
    rng = torch.Generator().manual_seed(0)
    return torch.rand(example.shape, generator=rng).to(example)


def relative_error(actual: Tensor, expected: Tensor) -> float:
    """Return the largest difference, relative to the largest expected value.

    It is infinity if NaN and infinite values are not at the same places, or there is nothing else.
    """
    actual, expected = actual.float(), expected.float()
    finite = expected.isfinite()
    if not torch.equal(finite, actual.isfinite()) or not finite.any():
        return math.inf
    difference = (actual - expected)[finite].abs().max()
    scale = expected[finite].abs().max().clamp(min=torch.finfo(torch.float32).tiny)
    return float(difference / scale)
