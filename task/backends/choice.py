"""Which engine an archive asks for, and whether it can be had on this machine."""

import json
import logging
from pathlib import Path

import torch
from torch import Tensor, nn

from task.backends.candidates import BASELINE, CANDIDATES, Engine

FILE = "engine.json"
"""Beside the weights; `python -m model.export` writes it."""
TOLERANCE = 0.02
"""How far an engine's numbers may lie from the baseline's, as a part of the largest of them."""

log = logging.getLogger(__name__)


def read(folder: Path) -> str:
    """Return the engine that FOLDER/engine.json names; the baseline if there is no such file."""
    file = folder / FILE
    return str(json.loads(file.read_text())["engine"]) if file.is_file() else BASELINE


def ready(net: nn.Module, folder: Path, example: Tensor) -> Engine:
    """Make the engine that was chosen; the baseline where it fails or gives other numbers here.

    `example` is a batch of one, on the device and in the memory format of those to come.
    """
    choice = read(folder)
    baseline = CANDIDATES[BASELINE](net, example)
    if choice == BASELINE:
        return baseline
    try:
        engine = CANDIDATES[choice](net, example)
        far = difference(engine, baseline, example)
    except (KeyError, RuntimeError, NotImplementedError) as error:
        log.warning("engine %r is not to be had here, %r serves: %s", choice, BASELINE, error)
        return baseline
    if far > TOLERANCE:
        log.warning("engine %r is off by %.3f here, %r serves", choice, far, BASELINE)
        return baseline
    return engine


def difference(engine: Engine, baseline: Engine, example: Tensor) -> float:
    """Return how far two engines' numbers lie apart, as a part of the largest of them."""
    rng = torch.Generator().manual_seed(0)
    batch = torch.rand(example.shape, generator=rng).to(example)
    with torch.inference_mode():
        wanted, got = baseline(batch), engine(batch)
    return float((got - wanted).abs().max() / wanted.abs().max())
