"""The calls of CUDA that the backends need. Nothing else in this package is specific to it."""

import contextlib
import warnings
from collections.abc import Callable
from typing import NamedTuple

import torch
from torch import Tensor


class Capture(NamedTuple):
    """The recorded kernels of a function."""

    replay: Callable[[], None]
    """Run them again, on the same memory."""
    output: Tensor
    """The memory that holds the function's output after each replay."""


class Cuda:
    """One of NVIDIA's GPUs, which computes while the CPU continues."""

    def __init__(self, device: torch.device) -> None:
        self._device = device
        self.name = torch.cuda.get_device_name(device)
        # Captures that are replayed one after another may share memory. They cannot use the default stream.
        self._pool = torch.cuda.graph_pool_handle()
        self._stream = torch.cuda.Stream(device)  # type: ignore[no-untyped-call]

    def synchronize(self) -> None:
        """Wait until the device has finished."""
        torch.cuda.synchronize(self._device)

    def release_memory(self) -> None:
        """Return the memory to the device that no tensor uses any more."""
        torch.cuda.empty_cache()

    def capture(self, function: Callable[[], Tensor]) -> Capture:
        """Record the kernels that a function starts; raise RuntimeError if it waits for the device."""
        with torch.cuda.device(self._device):
            self._stream.wait_stream(torch.cuda.current_stream())
            # This context also restores the stream after a capture that fails: torch.cuda.graph does not.
            with torch.cuda.stream(self._stream):
                function()  # libraries allocate their memory in the first pass
                _run_without_waiting(function)
                graph = torch.cuda.CUDAGraph()
                # In this mode other threads may allocate pinned memory meanwhile.
                mode = "thread_local"
                try:
                    with torch.cuda.graph(graph, self._pool, self._stream, capture_error_mode=mode):
                        output = function()
                except Exception:
                    # torch would take this capture to be under way still, refuse to release memory, and keep its own.
                    with contextlib.suppress(RuntimeError):  # it is not: the function itself failed
                        torch._C._cuda_endAllocateToPool(self._device.index, self._pool)
                        torch._C._cuda_releasePool(self._device.index, self._pool)
                    raise
            torch.cuda.current_stream().wait_stream(self._stream)
        return Capture(graph.replay, output)

    def recover(self) -> None:
        """Make the device usable after an error; raise RuntimeError if it is broken for this process."""
        self.synchronize()
        self.release_memory()
        # torch rejects a pool that has no captures any more while a tensor keeps its memory.
        self._pool = torch.cuda.graph_pool_handle()
        # After a capture that failed, CUDA's random number generator fails until another capture ends.
        self.capture(lambda: torch.zeros(1, device=self._device))


def _run_without_waiting(function: Callable[[], Tensor]) -> None:
    """Run a function; raise RuntimeError if it waits for the device, as `.item()` does.

    It would also make a capture fail, but after that less of CUDA works.
    """
    before = torch.cuda.get_sync_debug_mode()
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", UserWarning)  # torch warns that it finds most of the causes
        torch.cuda.set_sync_debug_mode("error")
    try:
        function()
    finally:
        torch.cuda.set_sync_debug_mode(before)
