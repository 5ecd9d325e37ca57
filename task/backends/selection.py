"""Select the backend of a network on the GPU where it runs.

The workers of a model share its folder: one of them measures, and the others take its choice.
"""

import contextlib
import fcntl
import json
import logging
import os
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from task.backends.builders import BASELINE, Backend, Builder
from task.backends.cuda import Cuda
from task.backends.device_measure import (
    NetworkError,
    build_backend,
    list_builders,
    measure_on_device,
)
from task.backends.measure import describe_error
from task.backends.precision import FULL_PRECISION

FILE, LOCK = ".accelerator.json", ".accelerator.lock"
"""Files in the model's folder: the choices of its workers, and the lock that a worker holds while it measures."""

log = logging.getLogger(__name__)

_selected: set[Path] = set()
"""The folders for whose networks this process has selected backends."""
_restrictions: dict[Path, int] = {}
"""How often the selection for a folder was restricted."""
AS_IT_IS = 2
"""The restriction with which networks run as they are."""


def select_backend(
    net: nn.Module,
    folder: Path,
    example: Tensor,
    precisions: Sequence[str],
    accelerator: Cuda,
) -> Backend:
    """Return the fastest backend whose outputs are close to the network's, as the first worker has measured it.

    `example` is a batch of one on the device. `precisions` are those that keep the predictions.
    """
    folder = folder.resolve()
    restriction = _restrictions.get(folder, 0)
    if restriction:
        precisions = [name for name in precisions if name == FULL_PRECISION]
    builders = list_builders(precisions)
    if restriction >= AS_IT_IS or len(builders) == 1:
        return net
    _selected.add(folder)
    case = _describe_case(net, example, precisions, accelerator, has_tf32=not restriction)
    with lock_folder(folder) as is_shared:
        choices = _read(folder)
        if case in choices:
            return _build(net, example, choices[case], builders, accelerator)
        if is_shared:  # what a worker finds that replaces this one, if a backend ends the process
            interrupted = {"backend": BASELINE, "reason": "an earlier measurement did not end"}
            _write(folder, {**choices, case: interrupted})
        choice, backend = _choose(net, example, builders, accelerator)
        if is_shared:
            _write(folder, {**choices, case: choice})
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


def _describe_case(
    net: nn.Module,
    example: Tensor,
    precisions: Sequence[str],
    accelerator: Cuda,
    *,
    has_tf32: bool,
) -> str:
    """Return a key of what a choice depends on; the networks of a model have one choice each."""
    weights = sum(parameter.numel() for parameter in net.parameters())
    network = f"{tuple(example.shape)} {example.dtype}, {weights} weights"
    tf32 = "" if has_tf32 else ", without TF32"
    return (
        f"{accelerator.name}, torch {torch.__version__}, {network}, {', '.join(precisions)}{tf32}"
    )


def _choose(
    net: nn.Module, example: Tensor, builders: Mapping[str, Builder], accelerator: Cuda
) -> tuple[dict[str, str], Backend]:
    """Measure the backends; return the choice for the other workers, and the backend."""
    try:
        measured, backend = measure_on_device(net, example, builders, accelerator)
    except NetworkError as error:
        log.warning("backend %r: %s", BASELINE, error)
        return {"backend": BASELINE, "reason": str(error)}, net
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
    return {"backend": measured.best, "reason": ""}, backend


def _build(
    net: nn.Module,
    example: Tensor,
    choice: Mapping[str, str],
    builders: Mapping[str, Builder],
    accelerator: Cuda,
) -> Backend:
    """Build a backend that another worker has chosen, or return the network if that fails."""
    name = choice["backend"]
    if choice["reason"]:
        log.warning("backend %r: %s", name, choice["reason"])
    try:
        backend = build_backend(name, net, example, builders, accelerator)
    except Exception as error:  # noqa: BLE001  a network may raise anything when it is traced
        reason = describe_error(error)
    else:
        log.info("backend %r, as another worker has chosen it", name)
        return backend
    # Outside of the except block: the exception's traceback keeps the tensors of the backend.
    accelerator.recover()
    log.warning("backend %r is not available, using %r: %s", name, BASELINE, reason)
    return net


@contextlib.contextmanager
def lock_folder(folder: Path) -> Iterator[bool]:
    """Let no other worker of the model in a folder measure meanwhile; yield whether the folder can be written."""
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
