"""Run a network in half precision, or with the rounding of half precision on a CPU.

Most CPUs have no instructions for float16: a ResNet-18 takes 20 times as long in it. What half precision does to the
predictions comes from rounding the weights and the output of each operation, and that is as fast as float32.
"""

import copy
from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_map_only

from task.backends.builders import Backend, convert_floats, fuse_batch_norms

FULL_PRECISION = "float32"
HALF_PRECISIONS = {"float16": torch.float16, "bfloat16": torch.bfloat16}


def build_half(net: nn.Module, _: Tensor, *, dtype: torch.dtype, is_fused: bool) -> Backend:
    """Convert the weights of a copy of the network; its output is converted back to float32."""
    half = fuse_batch_norms(net) if is_fused else copy.deepcopy(net)
    half = half.to(dtype)
    if is_fused:
        half = half.to(memory_format=torch.channels_last)  # type: ignore[call-overload]
    return lambda batch: convert_floats(half(convert_floats(batch, dtype)), torch.float32)


def build_rounded(net: nn.Module, dtype: torch.dtype) -> Backend:
    """Compute in float32, and round the weights, the input and the output of each operation to a type."""
    rounded = copy.deepcopy(net).to(dtype).to(torch.float32)

    def run(batch: Tensor) -> Tensor:
        fast_path = torch.backends.mha.get_fastpath_enabled()
        torch.backends.mha.set_fastpath_enabled(False)  # it has one operation for a layer
        try:
            with _Rounding(dtype):
                return rounded(_round(batch, dtype))  # type: ignore[no-any-return]
        finally:
            torch.backends.mha.set_fastpath_enabled(fast_path)

    return run


def _round(value: Tensor, dtype: torch.dtype) -> Tensor:
    return value.to(dtype).to(value.dtype) if value.is_floating_point() else value


class _Rounding(TorchDispatchMode):  # type: ignore[no-untyped-call]
    """Rounds the results of the operations within its context."""

    def __init__(self, dtype: torch.dtype) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self._dtype = dtype

    def __torch_dispatch__(
        self,
        func: Any,
        types: Any,
        args: tuple[Any, ...] = (),
        kwargs: Mapping[str, Any] | None = None,
    ) -> Any:
        result = func(*args, **(kwargs or {}))
        if func.is_view:
            return result
        if func._schema.is_mutable:  # the result is an argument, such as that of add_
            return tree_map_only(Tensor, lambda value: value.copy_(self._round(value)), result)
        return tree_map_only(Tensor, self._round, result)

    def _round(self, value: Tensor) -> Tensor:
        return _round(value, self._dtype)
