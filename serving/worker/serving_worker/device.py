"""The accelerator of a worker: which one it uses, and whether it works: some errors break it until the process ends."""

from collections.abc import MutableMapping

import torch

FIRST_PORT = 9000
"""TorchServe's Java numbers its workers from here; the number ends the name of a worker's socket."""
VISIBLE_VARIABLE = "CUDA_VISIBLE_DEVICES"


class DeviceError(Exception):
    """A worker cannot use its device."""


def check_assigned(gpu: int | None) -> None:
    """Raise DeviceError if torch is built for GPUs, but cannot use the one that is assigned to this worker.

    Handlers would load the model on the CPU, without a line in the log.
    """
    if gpu is None or not torch.backends.cuda.is_built():  # type: ignore[no-untyped-call]
        return
    try:
        torch.cuda.get_device_properties(gpu)
    except (RuntimeError, AssertionError) as error:  # an AssertionError: no device has this number
        raise DeviceError(f"torch cannot use GPU {gpu} of this machine: {_join(error)}") from error


def select_gpu(environ: MutableMapping[str, str], socket_name: str) -> int | None:
    """Let CUDA see only the GPU of this worker; return its number, which is 0 then, or None if it uses the CPU.

    WORKER_GPUS lists the GPUs of the workers in turn, by what selects them in CUDA_VISIBLE_DEVICES. CUDA must not be
    initialized yet.
    """
    if "WORKER_GPUS" not in environ:
        return None
    selectors = environ["WORKER_GPUS"].split(";")
    number = int(socket_name.rpartition(".")[2]) - FIRST_PORT
    if selector := selectors[number % len(selectors)]:
        environ[VISIBLE_VARIABLE] = selector
    else:
        environ.pop(VISIBLE_VARIABLE, None)
    return 0


def check_device() -> None:
    """Raise DeviceError if every later pass would fail.

    After a batch, whose output has been copied, it does not wait.
    """
    if not torch.cuda.is_initialized():  # type: ignore[no-untyped-call]
        return
    try:
        torch.cuda.synchronize()
    except RuntimeError as error:
        reason = _join(error)
        raise DeviceError(
            f"the GPU is broken for this process, which is replaced: {reason}"
        ) from error


def _join(error: BaseException) -> str:
    """Return the lines of an exception's text as one."""
    return " ".join(str(error).split())
