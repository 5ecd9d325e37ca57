"""Build the backend that was chosen for a network, and check it on this machine."""

import json
import logging
from pathlib import Path

import torch
from torch import Tensor, nn

from task.backends.builders import BACKENDS, BASELINE, Backend

FILE, OLD_FILE = "backend.json", "engine.json"
"""The file beside the weights that names the backend, and its name in version 0.1. `model.export` writes it."""
MAX_RELATIVE_ERROR = 0.02
"""Largest difference from the baseline's output, relative to the largest value in that output."""

log = logging.getLogger(__name__)


def read_choice(folder: Path) -> str:
    """Return the name of the backend in FOLDER/backend.json, or the baseline if there is no such file."""
    for name, key in ((FILE, "backend"), (OLD_FILE, "engine")):
        if (folder / name).is_file():
            return str(json.loads((folder / name).read_text())[key])
    return BASELINE


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
    except (KeyError, RuntimeError, NotImplementedError) as reason:
        log.warning("backend %r is not available, using %r: %s", choice, BASELINE, reason)
        return baseline
    if error > MAX_RELATIVE_ERROR:
        log.warning("backend %r has a relative error of %.3f, using %r", choice, error, BASELINE)
        return baseline
    return backend


def max_error(backend: Backend, baseline: Backend, example: Tensor) -> float:
    """Return the largest difference of two backends' outputs, relative to the baseline's largest value."""
    rng = torch.Generator().manual_seed(0)
    batch = torch.rand(example.shape, generator=rng).to(example)
    with torch.inference_mode():
        expected, actual = baseline(batch), backend(batch)
    return float((actual - expected).abs().max() / expected.abs().max())
