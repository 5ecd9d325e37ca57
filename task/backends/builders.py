"""The backends that can run a network. Each is built on the machine that serves, never copied to it."""

import warnings
from collections.abc import Callable

import torch
from torch import Tensor, nn
from torch.fx.experimental import optimization

Backend = Callable[[Tensor], Tensor]
"""(N, ...) -> (N, ...), as the network itself computes it, for any N >= 1."""


def fuse_batch_norms(net: nn.Module) -> nn.Module:
    """Return a copy of a network in evaluation mode with its batch norms fused into the convolutions.

    Raises RuntimeError if torch.fx cannot trace it, for example because it branches on its input.
    """
    try:
        return optimization.fuse(net)
    except Exception as error:  # the network's own code runs with symbols in place of tensors
        raise RuntimeError(f"torch.fx cannot trace this network: {error}") from error


def build_fused(net: nn.Module, _: Tensor) -> Backend:
    """Fuse each batch norm into the convolution before it; memory format channels last."""
    return fuse_batch_norms(net).to(memory_format=torch.channels_last)  # type: ignore[call-overload, no-any-return]


def build_scripted_bfloat16(net: nn.Module, example: Tensor) -> Backend:
    """Script the network in bfloat16."""
    dtype = torch.bfloat16
    script = _script(fuse_batch_norms(net).to(dtype), convert_floats(example, dtype))
    return lambda batch: script(convert_floats(batch, dtype)).float()


def convert_floats(batch: Tensor, dtype: torch.dtype) -> Tensor:
    """Return floats in another type; integers are token IDs or the like, which must not be rounded."""
    return batch.to(dtype) if batch.is_floating_point() else batch


def _script(net: nn.Module, example: Tensor) -> Backend:
    """Trace the network; TorchScript freezes it and passes its convolutions to oneDNN."""
    with torch.no_grad(), warnings.catch_warnings():
        # TorchScript is deprecated, but its successor was slower here, and torch is pinned.
        warnings.simplefilter("ignore", DeprecationWarning)
        # check_trace would trace a second time; load_backend compares the result with eager.
        trace = torch.jit.trace(net, example, check_trace=False)  # type: ignore[no-untyped-call]
        script: Backend = torch.jit.optimize_for_inference(torch.jit.freeze(trace))
        # TorchScript profiles the first calls and compiles again: no client should wait for that.
        for _ in range(3):
            script(example)
    return script


Builder = Callable[[nn.Module, Tensor], Backend]
BACKENDS: dict[str, Builder] = {
    "eager": lambda net, _: net,
    "fused": build_fused,
    "scripted": lambda net, example: _script(fuse_batch_norms(net), example),
    "scripted bfloat16": build_scripted_bfloat16,
}
"""Backend builders for a CPU by name. Each takes the network and an example batch of one, and raises an exception,
mostly RuntimeError, if this machine or network does not support the backend."""
BASELINE = "eager"
"""The backend that runs everywhere; the default."""
