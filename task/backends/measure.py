"""Measure the backends on this machine and choose the fastest that keeps the predictions."""

import json
import math
import platform
import statistics
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from types import MappingProxyType
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn

from task.backends.accuracy import MAX_RELATIVE_ERROR, max_error, relative_error
from task.backends.builders import BACKENDS, BASELINE, Backend
from task.backends.choice import FILE
from task.backends.precision import FULL_PRECISION, HALF_PRECISIONS, build_half, build_rounded

MAX_PROBABILITY_ERROR = 0.01
"""Largest accepted difference of a probability from the baseline's. No label may change."""
MAX_OUTPUT_ERROR = 1e-3
"""Largest accepted difference of another output, relative to the largest: the tolerance of requests.json."""
PRECISION_BATCH = 32
"""The batch size in which the outputs of precisions are compared."""
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

    def format_accuracy(self) -> str:
        """Describe the differences from the baseline."""
        return f"max. error {self.max_error:.0e}, {self.labels_changed} labels changed"

    @property
    def cost_ms(self) -> float:
        """Milliseconds per instance: the geometric mean over the batch sizes."""
        return statistics.geometric_mean([ms / size for size, ms in self.median_ms.items()])


class Measurements(NamedTuple):
    """The measurements of all backends."""

    by_backend: dict[str, Measurement]
    unavailable: dict[str, str]
    """Backends that this machine or network does not support, with the reason."""
    precisions: Mapping[str, str] = MappingProxyType({FULL_PRECISION: ""})
    """The precisions that were compared for a GPU, with the reason why it must not use them, or ""."""

    @property
    def best(self) -> str:
        """The fastest accurate backend; the baseline always is accurate."""
        accurate = [name for name, each in self.by_backend.items() if each.is_accurate]
        return min(accurate, key=lambda name: self.by_backend[name].cost_ms)

    def reject(self, name: str, reason: str) -> "Measurements":
        """Return the measurements without a backend."""
        others = {other: each for other, each in self.by_backend.items() if other != name}
        return self._replace(by_backend=others, unavailable=self.unavailable | {name: reason})

    def format_table(self) -> str:
        """Return a table for the terminal, one line per backend."""
        sizes = self.by_backend[BASELINE].median_ms
        width = max(20, *(len(name) + 1 for name in (*self.by_backend, *self.unavailable)))
        lines = [f"{'backend':{width}}" + "".join(f"{f'batch of {size}':>14}" for size in sizes)]
        for name, each in self.by_backend.items():
            times = "".join(f"{ms:11.2f} ms" for ms in each.median_ms.values())
            chosen = "  <- chosen" * (name == self.best)
            lines.append(f"{name:{width}}{times}   {each.format_accuracy()}{chosen}")
        lines += [
            f"{name:{width}}   not available: {why}" for name, why in self.unavailable.items()
        ]
        lines += [
            f"on a GPU, {name}: {why or 'may be used'}"
            for name, why in self.precisions.items()
            if name != FULL_PRECISION  # always allowed
        ]
        return "\n".join(lines)

    def write(self, folder: Path) -> None:
        """Write the choice and the measurements to FOLDER/backend.json."""
        figures = {
            "max_relative_error_at_load": MAX_RELATIVE_ERROR,
            "backends": {name: each._asdict() for name, each in self.by_backend.items()},
            "unavailable": self.unavailable,
            "precisions": dict(self.precisions),
            "machine": f"{platform.machine()}, {torch.backends.cpu.get_cpu_capability()}",
            "torch": torch.__version__,
        }
        accelerator = [name for name, reason in self.precisions.items() if not reason]
        write_choice(folder, self.best, accelerator, figures)


def write_choice(
    folder: Path, backend: str, precisions: Sequence[str], figures: Mapping[str, Any]
) -> None:
    """Write the backend for CPUs, the precisions for GPUs, and the measurements to FOLDER/backend.json."""
    document = {"backend": backend, "accelerator": [*precisions], "figures": figures}
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
                unavailable[name] = describe_error(error)
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


def compare_precisions(net: nn.Module, inputs: Tensor, *, classes: int = 0) -> dict[str, str]:
    """Return, for each precision, why a GPU must not use it, or "".

    The outputs are compared as those of backends, on the device of the inputs: on a CPU in float32 with the rounding
    of the precision.
    """
    is_cpu = inputs.device.type == "cpu"
    parts = torch.split(inputs, PRECISION_BATCH)
    reasons = {FULL_PRECISION: ""}
    with torch.inference_mode():
        baseline = torch.cat([net(part) for part in parts])
        for name, dtype in HALF_PRECISIONS.items():
            try:
                if is_cpu:
                    backend = build_rounded(net, dtype)
                else:
                    backend = build_half(net, inputs[:1], dtype=dtype, is_fused=False)
                rows = torch.cat([backend(part) for part in parts])
            except Exception as error:  # noqa: BLE001  a network may not support another type
                reasons[name] = describe_error(error)
                continue
            difference = relative_error(rows, baseline)
            if difference > MAX_RELATIVE_ERROR:
                reasons[name] = f"its outputs differ by up to {difference:.1g} of the largest"
                continue
            measured = Measurement({}, *_compare(rows, baseline, classes))
            reasons[name] = "" if measured.is_accurate else measured.format_accuracy()
    return reasons


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
            unavailable[name] = describe_error(error)
        else:
            backends[name] = backend
    return backends, unavailable


def describe_error(error: Exception) -> str:
    """Return the line of an exception's text that has the reason, or its type: of CUDA's errors the first."""
    first, *others = (str(error).strip() or type(error).__name__).splitlines()
    return first if "CUDA" in first or not others else others[-1]


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
