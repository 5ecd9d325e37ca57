"""Measure the backends on this machine and choose the fastest that keeps the predictions."""

import json
import math
import platform
import statistics
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn

from task.backends.builders import BACKENDS, BASELINE, Backend
from task.backends.loading import FILE, MAX_RELATIVE_ERROR, max_error, relative_error

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

    def reject(self, name: str, reason: str) -> "Measurements":
        """Return the measurements without a backend."""
        others = {other: each for other, each in self.by_backend.items() if other != name}
        return Measurements(others, self.unavailable | {name: reason})

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
    net: nn.Module, inputs: Tensor, batch_sizes: Sequence[int], rounds: int, *, classes: int = 0
) -> Measurements:
    """Measure every backend on one thread: `rounds` passes for each batch size, in turn.

    `inputs` are the network's inputs for at least as many instances as the largest batch size. If the outputs are
    (N, classes), they are the logits or the probabilities of a classifier, and its probabilities and labels are
    compared; other outputs are compared as they are.
    """
    torch.set_num_threads(1)
    parts = torch.split(inputs, max(batch_sizes))
    backends, unavailable = _build_backends(net, inputs[:1])
    outputs = {}
    with torch.inference_mode():
        for name, backend in list(backends.items()):
            try:
                outputs[name] = torch.cat([backend(part) for part in parts])
            except Exception as error:  # a traced network may support one shape only
                if name == BASELINE:
                    raise
                unavailable[name] = _describe(error)
                del backends[name]
        times = {size: measure_ms(backends, inputs[:size], rounds) for size in batch_sizes}
    by_backend = {}
    for name, rows in outputs.items():
        medians = {size: round(times[size][name], 4) for size in batch_sizes}
        if name == BASELINE:
            by_backend[name] = Measurement(medians, 0, 0)
        elif math.isinf(relative_error(rows, outputs[BASELINE])):
            unavailable[name] = (
                "its outputs differ from eager's in shape, or in where they are NaN or infinite"
            )
        else:
            by_backend[name] = Measurement(medians, *_compare(rows, outputs[BASELINE], classes))
    return Measurements(by_backend, unavailable)


def _compare(rows: Tensor, baseline: Tensor, classes: int) -> tuple[float, int, float]:
    """Return the largest error, the number of changed labels, and the largest error that is accepted."""
    if not classes or baseline.shape[1:] != (classes,):
        return relative_error(rows, baseline), 0, MAX_OUTPUT_ERROR
    changed = int((rows.argmax(1) != baseline.argmax(1)).sum())
    is_distribution = bool((baseline >= 0).all()) and bool((baseline.sum(1) - 1).abs().max() < 1e-3)
    if not is_distribution:
        rows, baseline = rows.softmax(1), baseline.softmax(1)
    return float((rows - baseline).abs().nan_to_num(0).max()), changed, MAX_PROBABILITY_ERROR


def _build_backends(net: nn.Module, example: Tensor) -> tuple[dict[str, Backend], dict[str, str]]:
    backends, unavailable = {}, {}
    for name, build in BACKENDS.items():
        try:
            backend = build(net, example)
            if name != BASELINE:
                max_error(backend, net, example)
        except Exception as error:  # noqa: BLE001  a network may raise anything when it is traced
            unavailable[name] = _describe(error)
        else:
            backends[name] = backend
    return backends, unavailable


def _describe(error: Exception) -> str:
    return (str(error).strip() or type(error).__name__).splitlines()[-1]


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
