"""Measure the backends on this machine and choose the fastest that keeps the predictions."""

import json
import platform
import statistics
import time
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn

from task.backends.builders import BACKENDS, BASELINE, Backend
from task.backends.loading import FILE, MAX_RELATIVE_ERROR, max_error

MAX_PROBABILITY_ERROR = 0.01
"""Largest accepted difference of a probability from the baseline's. No label may change."""
MAX_OUTPUT_ERROR = 1e-3
"""Largest accepted difference of another output, relative to the largest: the tolerance of requests.json."""
MIN_ROUNDS, MAX_MEASURING_S = 3, 10
"""Slow networks are measured for this time per batch size, but at least this often."""


class Measurement(NamedTuple):
    """Speed and accuracy of one backend."""

    median_ms: dict[int, float]
    """Median milliseconds of a pass on one thread, by batch size."""
    max_error: float
    """The largest difference of a probability, or of another output, from the baseline's."""
    labels_changed: int
    max_accepted_error: float = MAX_PROBABILITY_ERROR

    @property
    def is_accurate(self) -> bool:
        """Whether every label is the baseline's and every output is close to it."""
        return self.labels_changed == 0 and self.max_error <= self.max_accepted_error

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
        figures = {
            "max_relative_error_at_load": MAX_RELATIVE_ERROR,
            "backends": {name: each._asdict() for name, each in self.by_backend.items()},
            "unavailable": self.unavailable,
            "machine": f"{platform.machine()}, {torch.backends.cpu.get_cpu_capability()}",
            "torch": torch.__version__,
        }
        document = {"backend": self.best, "figures": figures}
        (folder / FILE).write_text(json.dumps(document, indent=2) + "\n")


def measure_backends(
    net: nn.Module,
    inputs: Tensor,
    batch_sizes: tuple[int, ...],
    rounds: int,
    *,
    classifies: bool = True,
) -> Measurements:
    """Measure every backend on one thread: `rounds` passes for each batch size, in turn.

    `inputs` are the network's inputs for at least as many instances as the largest batch size. A network that
    `classifies` returns (N, classes) logits, whose probabilities and labels are compared; the outputs of other
    networks are compared as they are.
    """
    torch.set_num_threads(1)
    parts = torch.split(inputs, max(batch_sizes))
    backends, unavailable = _build_backends(net, inputs[:1])
    with torch.inference_mode():
        outputs = {
            name: torch.cat([backend(part) for part in parts]) for name, backend in backends.items()
        }
        times = {size: measure_ms(backends, inputs[:size], rounds) for size in batch_sizes}
    by_backend = {}
    for name, rows in outputs.items():
        medians = {size: round(times[size][name], 4) for size in batch_sizes}
        by_backend[name] = Measurement(medians, *_compare(rows, outputs[BASELINE], classifies))
    return Measurements(by_backend, unavailable)


def _compare(rows: Tensor, baseline: Tensor, classifies: bool) -> tuple[float, int, float]:
    """Return the largest error, the number of changed labels, and the largest error that is accepted."""
    if classifies:
        rows, baseline = rows.softmax(1), baseline.softmax(1)
        changed = int((rows.argmax(1) != baseline.argmax(1)).sum())
        return float((rows - baseline).abs().max()), changed, MAX_PROBABILITY_ERROR
    error = (rows - baseline).abs().max() / baseline.abs().max()
    return float(error), 0, MAX_OUTPUT_ERROR


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


def measure_ms(
    functions: Mapping[str, Callable[[Any], Any]], batch: Any, rounds: int
) -> dict[str, float]:
    """Return the median milliseconds of each function on a batch, called in turn."""
    times_ms: dict[str, list[float]] = {name: [] for name in functions}
    began = time.perf_counter()
    for number in range(rounds):
        if number >= MIN_ROUNDS and time.perf_counter() - began > MAX_MEASURING_S:
            break
        for name, function in functions.items():
            start = time.perf_counter()
            function(batch)
            times_ms[name].append(1000 * (time.perf_counter() - start))
    return {name: statistics.median(times) for name, times in times_ms.items()}
