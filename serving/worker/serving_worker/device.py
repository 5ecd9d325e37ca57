"""Whether the accelerator of a worker still works: some errors break it until the process ends."""

import torch


class DeviceError(Exception):
    """Every later pass on the device would fail, too."""


def check_device() -> None:
    """Raise DeviceError if the device is broken. After a batch, whose output has been copied, it does not wait."""
    if not torch.cuda.is_initialized():  # type: ignore[no-untyped-call]
        return
    try:
        torch.cuda.synchronize()
    except RuntimeError as error:
        raise DeviceError(
            f"the GPU is broken for this process, which is replaced: {error}"
        ) from error
