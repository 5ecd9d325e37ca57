"""Recognize an exception that means that the memory of the device is too small, and release what it holds."""

import re
import traceback

import torch

REASONS = re.compile(r"out of memory|allocate memory|_ALLOC(ATION)?_FAILED|STATUS_NOT_INITIALIZED")
"""Texts of torch, cuBLAS, cuDNN, cuFFT and MAGMA. Without memory for its handle, a library is not initialized."""


def is_out_of_memory(error: BaseException) -> bool:
    """Whether an exception means that a device, or the machine, has too little memory for what was computed."""
    if isinstance(error, (torch.OutOfMemoryError, MemoryError)):
        return True
    return isinstance(error, RuntimeError) and REASONS.search(str(error)) is not None


def release_memory(error: BaseException) -> None:
    """Free the tensors in the frames of an exception's traceback, also for other processes on the device.

    The lines of the traceback stay, for the log.
    """
    cause: BaseException | None = error
    while cause is not None:
        traceback.clear_frames(cause.__traceback__)
        cause = cause.__context__
    if torch.cuda.is_initialized():  # type: ignore[no-untyped-call]
        torch.cuda.empty_cache()
