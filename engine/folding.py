"""Batch norms folded into the convolutions before them: the same function in fewer passes."""

import copy

from torch import fx, nn
from torch.nn.utils.fusion import fuse_conv_bn_eval


def folded(net: nn.Module) -> nn.Module:
    """Return a copy of a network in evaluation mode with its batch norms folded away.

    Raises RuntimeError where torch.fx cannot follow it, as one that branches on its input.
    """
    try:
        traced = fx.symbolic_trace(copy.deepcopy(net))
    except (fx.proxy.TraceError, TypeError) as error:
        raise RuntimeError(f"torch.fx cannot follow this network: {error}") from error
    modules = dict(traced.named_modules())
    for norm in list(traced.graph.nodes):
        if norm.op != "call_module" or not isinstance(modules[norm.target], nn.BatchNorm2d):
            continue
        conv = norm.args[0]
        if conv.op != "call_module" or len(conv.users) > 1:
            continue
        if isinstance(modules[conv.target], nn.Conv2d):
            modules[conv.target] = fuse_conv_bn_eval(modules[conv.target], modules[norm.target])
            traced.set_submodule(conv.target, modules[conv.target])
            norm.replace_all_uses_with(conv)
            traced.graph.erase_node(norm)
    traced.delete_all_unused_submodules()
    traced.recompile()
    return traced
