"""Build the backend that was chosen for a network, and check it on this machine."""

import logging
from pathlib import Path

from torch import Tensor, nn

from task.backends.accuracy import MAX_RELATIVE_ERROR, max_error
from task.backends.builders import BACKENDS, BASELINE, Backend
from task.backends.choice import read_choice, read_precisions
from task.backends.cuda import Cuda
from task.backends.precision import HALF_PRECISIONS, build_rounded
from task.backends.selection import select_backend

log = logging.getLogger(__name__)


def load_backend(net: nn.Module, folder: Path, example: Tensor) -> Backend:
    """Build the chosen backend, or the baseline if that fails or its output differs on this machine.

    `example` is a batch of one, on the device and in the memory format of the requests. On a GPU the backend is
    chosen there.
    """
    if example.device.type == "cuda":
        precisions = read_precisions(folder)
        return select_backend(net, folder, example, precisions, Cuda(example.device))
    choice = read_choice(folder)
    baseline = BACKENDS[BASELINE](net, example)
    if choice == BASELINE:
        return baseline
    if choice in HALF_PRECISIONS:  # make export writes it while it compares precisions
        return build_rounded(net, HALF_PRECISIONS[choice])
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
