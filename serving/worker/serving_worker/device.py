"""Whether the accelerator of a worker works: some errors break it until the process ends."""

import torch


class DeviceError(Exception):
    """A worker cannot use its device."""


def check_assigned(gpu: int | None) -> None:
    """Raise DeviceError if torch is built for GPUs, but cannot use the one that Java has assigned to this worker.

    Handlers would load the model on the CPU, without a line in the log.
    """
    if gpu is None or not torch.backends.cuda.is_built():  # type: ignore[no-untyped-call]
        return
    try:
        torch.cuda.get_device_properties(gpu)
    except (RuntimeError, AssertionError) as error:  # an AssertionError: no device has this number
        raise DeviceError(f"torch cannot use GPU {gpu} of this machine: {_join(error)}") from error


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
