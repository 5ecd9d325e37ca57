"""Attribute the score of a prediction to the parts of its input, for the `explain` of a task."""

from collections.abc import Callable

import torch
from torch import Tensor

STEPS = 128
"""The inputs between the baseline and the sample at which gradients are taken, in one batch."""


def integrated_gradients(
    score: Callable[[Tensor], Tensor], sample: Tensor, baseline: Tensor
) -> Tensor:
    """Return how much each value of a sample adds to its score, in the sample's shape.

    `score` takes a batch of inputs like the sample and returns (N,) scores. The attributions are the mean gradient
    on the way from the baseline, times the way: they sum to the score less that of the baseline. Source: Sundararajan
    et al., "Axiomatic Attribution for Deep Networks" (https://arxiv.org/abs/1703.01365).
    """
    way = sample - baseline
    parts = (torch.arange(STEPS, device=sample.device) + 0.5) / STEPS
    path = (baseline + parts.view(-1, *[1] * sample.dim()) * way).requires_grad_()
    (gradients,) = torch.autograd.grad(score(path).sum(), path)
    return way * gradients.mean(dim=0)
