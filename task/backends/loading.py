"""Build the backend that was chosen for a network, and check it on this machine."""

import json
import logging
import math
from pathlib import Path

import torch
from torch import Tensor, nn

from task.backends.builders import BACKENDS, BASELINE, Backend

FILE, OLD_FILE = "backend.json", "engine.json"
"""The file beside the weights that names the backend, and its name in version 0.1. `make export` writes it."""
MAX_RELATIVE_ERROR = 0.02
"""Largest difference from the baseline's output, relative to the largest value in that output."""

log = logging.getLogger(__name__)


def read_choice(folder: Path) -> str:
    """Return the name of the backend in FOLDER/backend.json, or the baseline if there is no such file."""
    for name, key in ((FILE, "backend"), (OLD_FILE, "engine")):
        if (folder / name).is_file():
            return str(json.loads((folder / name).read_text())[key])
    return BASELINE


def read_times(folder: Path) -> dict[int, float]:
    """Return the milliseconds of a pass by its number of instances, as measured; empty if they are unknown."""
    if not (folder / FILE).is_file():
        return {}
    choice = json.loads((folder / FILE).read_text())
    measured = choice.get("figures", {}).get("backends", {}).get(choice["backend"], {})
    return {int(size): float(ms) for size, ms in measured.get("median_ms", {}).items()}


def load_backend(net: nn.Module, folder: Path, example: Tensor) -> Backend:
    """Build the chosen backend, or the baseline if that fails or its output differs on this machine.

    `example` is a batch of one, on the device and in the memory format of the requests.
    """
    choice = read_choice(folder)
    baseline = BACKENDS[BASELINE](net, example)
    if choice == BASELINE:
        return baseline
    try:
        backend = BACKENDS[choice](net, example)
        error = max_error(backend, baseline, example)
    except Exception as reason:  # noqa: BLE001  a network may raise anything when it is traced
        log.warning("backend %r is not available, using %r: %s", choice, BASELINE, reason)
        return baseline
    if error > MAX_RELATIVE_ERROR:
        log.warning("backend %r has a relative error of %.3f, using %r", choice, error, BASELINE)
        return baseline
    return backend


def max_error(backend: Backend, baseline: Backend, example: Tensor) -> float:
    """Return the relative error of a backend's output for a random input of the example's shape."""
    rng = torch.Generator().manual_seed(0)
    batch = torch.rand(example.shape, generator=rng).to(example)
    with torch.inference_mode():
        return relative_error(backend(batch), baseline(batch))


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
