"""The ways to run a network. Each is made where it runs, so that none is of another machine."""

import warnings
from collections.abc import Callable

import torch
from torch import Tensor, fx, nn
from torch.fx.experimental import optimization

Engine = Callable[[Tensor], Tensor]
"""(N, ...) float32 -> (N, ...) float32, as the network itself does, for any N from 1 on."""


def fuse_batch_norms(net: nn.Module) -> nn.Module:
    """Return a copy of a network in evaluation mode with its batch norms folded into convolutions.

    Raises RuntimeError where torch.fx cannot follow it, as one that branches on its input.
    """
    try:
        return optimization.fuse(net)
    except (fx.proxy.TraceError, TypeError) as error:
        raise RuntimeError(f"torch.fx cannot follow this network: {error}") from error


def fused(net: nn.Module, _: Tensor) -> Engine:
    """Fold each batch norm into the convolution before it; channels last."""
    return fuse_batch_norms(net).to(memory_format=torch.channels_last)  # type: ignore[call-overload, no-any-return]


def scripted_bfloat16(net: nn.Module, example: Tensor) -> Engine:
    """Script the network in bfloat16."""
    engine = _script(fuse_batch_norms(net).to(torch.bfloat16), example.to(torch.bfloat16))
    return lambda batch: engine(batch.to(torch.bfloat16)).float()


def _script(net: nn.Module, example: Tensor) -> Engine:
    """Trace the network, let TorchScript freeze it and hand its convolutions to oneDNN."""
    with torch.no_grad(), warnings.catch_warnings():
        # TorchScript is deprecated; what is to take its place was slower here, and torch is pinned.
        warnings.simplefilter("ignore", DeprecationWarning)
        # Its own check traces it a second time; choice.ready checks it against eager.
        trace = torch.jit.trace(net, example, check_trace=False)  # type: ignore[no-untyped-call]
        traced = torch.jit.freeze(trace)
        script: Engine = torch.jit.optimize_for_inference(traced)
        # It looks at the first calls and compiles anew: no client is to wait for that.
        for _ in range(3):
            script(example)
    return script


CANDIDATES: dict[str, Callable[[nn.Module, Tensor], Engine]] = {
    "eager": lambda net, _: net,
    "fused": fused,
    "scripted": lambda net, example: _script(fuse_batch_norms(net), example),
    "scripted bfloat16": scripted_bfloat16,
}
BASELINE = "eager"
"""What runs everywhere, and where nothing was chosen."""
