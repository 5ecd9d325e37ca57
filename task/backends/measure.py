"""Measure the backends on this machine and choose the fastest that keeps the predictions."""

import json
import platform
import statistics
import time
from pathlib import Path
from typing import NamedTuple

import torch
from torch import Tensor, nn

from task.backends.builders import BACKENDS, BASELINE, Backend
from task.backends.loading import FILE, MAX_RELATIVE_ERROR, max_error

MAX_PROBABILITY_ERROR = 0.01
"""Largest accepted difference of a probability from the baseline's. No label may change."""


class Measurement(NamedTuple):
    """Speed and accuracy of one backend."""

    median_ms: dict[int, float]
    """Median milliseconds of a pass on one thread, by batch size."""
    max_error: float
    """The largest difference of a probability from the baseline's."""
    labels_changed: int

    @property
    def is_accurate(self) -> bool:
        """Whether every label is the baseline's and every probability is close to it."""
        return self.labels_changed == 0 and self.max_error <= MAX_PROBABILITY_ERROR

    @property
    def cost_ms(self) -> float:
        """Milliseconds per instance: the geometric mean over the batch sizes."""
        return statistics.geometric_mean([ms / size for size, ms in self.median_ms.items()])


class Measurements(NamedTuple):
    """The measurements of all backends."""

    by_backend: dict[str, Measurement]
    unavailable: dict[str, str]
    """Backends that this machine or network does not support, with the reason."""

    @property
    def best(self) -> str:
        """The fastest accurate backend; the baseline always is accurate."""
        accurate = [name for name, each in self.by_backend.items() if each.is_accurate]
        return min(accurate, key=lambda name: self.by_backend[name].cost_ms)

    def format_table(self) -> str:
        """Return a table for the terminal, one line per backend."""
        sizes = self.by_backend[BASELINE].median_ms
        lines = [f"{'backend':20}" + "".join(f"{f'batch of {size}':>14}" for size in sizes)]
        for name, each in self.by_backend.items():
            times = "".join(f"{ms:11.2f} ms" for ms in each.median_ms.values())
            accuracy = f"max. error {each.max_error:.0e}, {each.labels_changed} labels changed"
            lines.append(f"{name:20}{times}   {accuracy}{'  <- chosen' * (name == self.best)}")
        lines += [f"{name:20}   not available: {why}" for name, why in self.unavailable.items()]
        return "\n".join(lines)

    def write(self, folder: Path) -> None:
        """Write the choice and the measurements to FOLDER/backend.json."""
        limits = {
            "max_error": MAX_PROBABILITY_ERROR,
            "labels_changed": 0,
            "max_relative_error_at_load": MAX_RELATIVE_ERROR,
        }
        figures = {
            "limits": limits,
            "backends": {name: each._asdict() for name, each in self.by_backend.items()},
            "unavailable": self.unavailable,
            "machine": f"{platform.machine()}, {torch.backends.cpu.get_cpu_capability()}",
            "torch": torch.__version__,
        }
        document = {"backend": self.best, "figures": figures}
        (folder / FILE).write_text(json.dumps(document, indent=2) + "\n")


def measure_backends(
    net: nn.Module, inputs: Tensor, batch_sizes: tuple[int, ...], rounds: int
) -> Measurements:
    """Measure every backend on one thread: `rounds` passes for each batch size, in turn.

    `inputs` are preprocessed held-out instances, at least as many as the largest batch size.
    """
    torch.set_num_threads(1)
    parts = torch.split(inputs, max(batch_sizes))
    backends, unavailable = _build_backends(net, inputs[:1])
    with torch.inference_mode():
        probabilities = {
            name: torch.cat([backend(part) for part in parts]).softmax(1)
            for name, backend in backends.items()
        }
        times = {size: _median_ms(backends, inputs[:size], rounds) for size in batch_sizes}
    baseline, by_backend = probabilities[BASELINE], {}
    for name, rows in probabilities.items():
        changed = int((rows.argmax(1) != baseline.argmax(1)).sum())
        medians = {size: round(times[size][name], 4) for size in batch_sizes}
        by_backend[name] = Measurement(medians, float((rows - baseline).abs().max()), changed)
    return Measurements(by_backend, unavailable)


def _build_backends(net: nn.Module, example: Tensor) -> tuple[dict[str, Backend], dict[str, str]]:
    backends, unavailable = {}, {}
    for name, build in BACKENDS.items():
        try:
            backend = build(net, example)
            max_error(backend, net, example)
        except (RuntimeError, NotImplementedError) as error:
            unavailable[name] = str(error).strip().splitlines()[-1]
        else:
            backends[name] = backend
    return backends, unavailable


def _median_ms(backends: dict[str, Backend], batch: Tensor, rounds: int) -> dict[str, float]:
    times_ms: dict[str, list[float]] = {name: [] for name in backends}
    for _ in range(rounds):
        for name, backend in backends.items():
            start = time.perf_counter()
            backend(batch)
            times_ms[name].append(1000 * (time.perf_counter() - start))
    return {name: statistics.median(times) for name, times in times_ms.items()}
