"""Select the backend of a network on the GPU where it runs.

The workers of a model share its folder: one of them measures, and the others take its choice.
"""

import contextlib
import fcntl
import json
import logging
import os
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from task.backends.accuracy import MAX_RELATIVE_ERROR, max_error
from task.backends.builders import BACKENDS, BASELINE, Backend, Builder
from task.backends.cuda import Accelerator
from task.backends.graphs import GraphBackend, time_pass
from task.backends.measure import Measurement, Measurements, describe_error
from task.backends.precision import FULL_PRECISION, HALF_PRECISIONS, build_half

FILE, LOCK = ".accelerator.json", ".accelerator.lock"
"""The files in the model's folder with the workers' choice, and that only one of them may have open to measure."""
SIZES, ROUNDS = (1, 8, 32), 5
MAX_PASS_MS = 250
"""Larger batches than the first that takes longer are not measured."""
MAX_MEASURING_S = 10
"""After this time no other backend is built."""
WITH_GRAPHS = " with CUDA graphs"

log = logging.getLogger(__name__)

_selected: set[Path] = set()
"""The folders for whose networks this process has selected backends."""
_restrictions: dict[Path, int] = {}
"""How often the selection for a folder was restricted."""
AS_IT_IS = 2
"""The restriction with which networks run as they are."""


class NetworkError(Exception):
    """The network itself fails for the example, so that nothing can be compared with it."""


def select_backend(
    net: nn.Module,
    folder: Path,
    example: Tensor,
    precisions: Sequence[str],
    accelerator: Accelerator,
) -> Backend:
    """Return the fastest backend whose outputs are close to the network's, as the first worker has measured it.

    `example` is a batch of one on the device. `precisions` are those that keep the predictions.
    """
    folder = folder.resolve()
    restriction = _restrictions.get(folder, 0)
    if restriction:
        precisions = [name for name in precisions if name == FULL_PRECISION]
    builders = list_builders(precisions)
    if len(builders) == 1 or restriction >= AS_IT_IS:
        return builders[BASELINE](net, example)
    _selected.add(folder)
    weights = sum(parameter.numel() for parameter in net.parameters())
    case = f"{tuple(example.shape)} {example.dtype}, {weights} weights, {', '.join(precisions)}"
    case += ", without TF32" * bool(restriction)
    case = f"{accelerator.name}, torch {torch.__version__}, {case}"
    with lock_folder(folder) as is_shared:
        choices = _read(folder)
        if case in choices:
            return _build(net, example, choices[case], builders, accelerator)
        if is_shared:  # what a worker finds that replaces this one, if a backend ends the process
            interrupted = {"backend": BASELINE, "reason": "an earlier measurement did not end"}
            _write(folder, {**choices, case: interrupted})
        try:
            measured, backend = measure_on_device(net, example, builders, accelerator)
            choice = {"backend": measured.best, "reason": ""}
        except NetworkError as error:
            choice = {"backend": BASELINE, "reason": str(error)}
        if is_shared:
            _write(folder, {**choices, case: choice})
        if choice["reason"]:
            return _build(net, example, choice, builders, accelerator)
    times = "; ".join(
        f"{name} {', '.join(f'{ms:.2f}' for ms in each.median_ms.values())}"
        + ("" if each.is_accurate else f" with an error of {each.max_error:.3f}")
        for name, each in measured.by_backend.items()
    )
    missing = "".join(
        f"; {name} not available: {why}" for name, why in measured.unavailable.items()
    )
    sizes = ", ".join(map(str, measured.by_backend[BASELINE].median_ms))
    log.info(
        "backend %r on %s; milliseconds for %s instances: %s%s",
        *(measured.best, accelerator.name, sizes, times, missing),
    )
    return backend


def restrict_selection(folder: Path) -> bool:
    """Restrict what this process selects for the model in a folder: to full float32, then to the network as it is.

    Return whether that may change the outputs. TF32, which torch uses for convolutions by default, has the precision
    of float16, and is turned off.
    """
    folder = folder.resolve()
    torch.backends.cudnn.allow_tf32 = False
    level = _restrictions[folder] = _restrictions.get(folder, 0) + 1
    return level == 1 or (level == AS_IT_IS and folder in _selected)


def list_builders(precisions: Sequence[str]) -> dict[str, Builder]:
    """Return the builders of the backends without graphs, by name."""
    builders = {BASELINE: BACKENDS[BASELINE]}
    if FULL_PRECISION in precisions:
        builders["fused"] = BACKENDS["fused"]
    for name, dtype in HALF_PRECISIONS.items():
        if name in precisions:
            builders[name] = partial(build_half, dtype=dtype, is_fused=False)
            builders[f"fused {name}"] = partial(build_half, dtype=dtype, is_fused=True)
    return builders


def measure_on_device(
    net: nn.Module, example: Tensor, builders: Mapping[str, Builder], accelerator: Accelerator
) -> tuple[Measurements, Backend]:
    """Compare backends with the network, and time them; return the fastest, too.

    They are built one after another, and only the best is kept. Graphs are captured of the best one alone: what they
    save, the time to start kernels, differs little between backends. Raises NetworkError.
    """
    deadline = time.monotonic() + MAX_MEASURING_S
    baseline_ms = _time_baseline(net, example, accelerator)
    measured = Measurements({BASELINE: Measurement(baseline_ms, 0, 0)}, {})
    best: Backend = net

    def measure(name: str, build: Callable[[], Backend]) -> None:
        nonlocal best
        if time.monotonic() > deadline:
            measured.unavailable[name] = "the others took too long to measure it"
            return
        try:
            backend = build()
            error = max_error(backend, net, example)
            times_ms = _time(backend, example, list(baseline_ms), accelerator)
        except Exception as failure:  # noqa: BLE001  a network may raise anything when it is traced
            reason = describe_error(failure)
        else:
            measured.by_backend[name] = Measurement(times_ms, error, 0, MAX_RELATIVE_ERROR)
            if measured.best == name:
                best = backend
            return
        # Outside of the except block: the exception's traceback keeps the tensors of the backend.
        measured.unavailable[name] = reason
        accelerator.recover()

    for name, build in builders.items():
        if name != BASELINE:
            measure(name, partial(build, net, example))
            accelerator.release_memory()
    plain = best
    measure(measured.best + WITH_GRAPHS, lambda: GraphBackend(plain, example, accelerator))
    accelerator.release_memory()
    return measured, best


def _time_baseline(net: nn.Module, example: Tensor, accelerator: Accelerator) -> dict[int, float]:
    """Return the milliseconds of a pass by its size, for the sizes that the device can run in a limited time.

    Raises NetworkError.
    """
    times_ms: dict[int, float] = {}
    for size in SIZES:
        if times_ms and max(times_ms.values()) > MAX_PASS_MS:
            break
        try:
            times_ms |= _time(net, example, [size], accelerator)
        except Exception as error:
            if times_ms and isinstance(error, torch.OutOfMemoryError):
                break
            reason = describe_error(error)
            raise NetworkError(
                f"the network fails for {size} times the example: {reason}"
            ) from error
    accelerator.release_memory()
    return times_ms


def _time(
    backend: Backend, example: Tensor, sizes: Sequence[int], accelerator: Accelerator
) -> dict[int, float]:
    times_ms = {}
    with torch.inference_mode():
        for size in sizes:
            batch = torch.cat([example] * size)
            times_ms[size] = time_pass(partial(backend, batch), accelerator, ROUNDS)
    return times_ms


def _build(
    net: nn.Module,
    example: Tensor,
    choice: Mapping[str, str],
    builders: Mapping[str, Builder],
    accelerator: Accelerator,
) -> Backend:
    """Build a backend that another worker has chosen, or the baseline if that fails."""
    name = choice["backend"]
    if choice["reason"]:
        log.warning("backend %r: %s", name, choice["reason"])
    plain = name.removesuffix(WITH_GRAPHS)
    try:
        backend = builders[plain](net, example)
        if plain != name:
            backend = GraphBackend(backend, example, accelerator)
    except Exception as error:  # noqa: BLE001  a network may raise anything when it is traced
        reason = describe_error(error)
    else:
        log.info("backend %r, as another worker has chosen it", name)
        return backend
    accelerator.recover()
    log.warning("backend %r is not available, using %r: %s", name, BASELINE, reason)
    return builders[BASELINE](net, example)


@contextlib.contextmanager
def lock_folder(folder: Path) -> Iterator[bool]:
    """Wait until no other worker of the model in a folder measures; whether the folder can be written."""
    try:
        lock = (folder / LOCK).open("w")
    except OSError as error:
        log.warning("this worker measures alone, and perhaps while others do: %s", error)
        yield False
        return
    with lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        yield True


def _read(folder: Path) -> dict[str, Any]:
    file = folder / FILE
    return dict(json.loads(file.read_text())) if file.is_file() else {}


def _write(folder: Path, choices: Mapping[str, Any]) -> None:
    """Replace the file in one step: a worker may end at any time."""
    part = folder / f"{FILE}.part"
    part.write_text(json.dumps(choices, indent=1))
    os.replace(part, folder / FILE)
