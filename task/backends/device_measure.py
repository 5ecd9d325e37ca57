"""Measure the backends of a network on a GPU, and choose the fastest of those with its outputs."""

import time
from collections.abc import Callable, Mapping, Sequence
from functools import partial

import torch
from torch import Tensor, nn

from task.backends.accuracy import MAX_RELATIVE_ERROR, max_error
from task.backends.builders import BACKENDS, BASELINE, Backend, Builder
from task.backends.cuda import Cuda
from task.backends.graphs import GraphBackend, time_pass
from task.backends.measure import Measurement, Measurements, describe_error
from task.backends.precision import FULL_PRECISION, HALF_PRECISIONS, build_half

SIZES, ROUNDS = (1, 8, 32), 5
MAX_PASS_MS = 250
"""Larger batches than the first that takes longer are not measured."""
MAX_MEASURING_S = 10
"""After this time no other backend is built."""
WITH_GRAPHS = " with CUDA graphs"


class NetworkError(Exception):
    """The network itself fails for the example, so that nothing can be compared with it."""


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


def build_backend(
    name: str,
    net: nn.Module,
    example: Tensor,
    builders: Mapping[str, Builder],
    accelerator: Cuda,
) -> Backend:
    """Build a backend of list_builders, or one of these with CUDA graphs; raise what the network or torch raises."""
    plain = name.removesuffix(WITH_GRAPHS)
    backend = builders[plain](net, example)
    return backend if plain == name else GraphBackend(backend, example, accelerator)


def measure_on_device(
    net: nn.Module, example: Tensor, builders: Mapping[str, Builder], accelerator: Cuda
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


def _time_baseline(net: nn.Module, example: Tensor, accelerator: Cuda) -> dict[int, float]:
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
    backend: Backend, example: Tensor, sizes: Sequence[int], accelerator: Cuda
) -> dict[int, float]:
    times_ms = {}
    with torch.inference_mode():
        for size in sizes:
            batch = torch.cat([example] * size)
            times_ms[size] = time_pass(partial(backend, batch), accelerator, ROUNDS)
    return times_ms
