"""Serve a TorchScript file: forward(x: Tensor)."""

from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from task import BadInstance

INPUTS = {"x": (torch.float32, (None,))}
"""The dtype and the shape of each input, without the dimension of the batch; None is any size."""


def load(folder: Path, device: torch.device) -> "TorchScriptModel":
    """Load the TorchScript file from a folder onto a device."""
    return TorchScriptModel(torch.jit.load(folder / "model.pt", map_location=device).eval())


class TorchScriptModel:
    """Takes numbers, and returns what the network returns."""

    def __init__(self, model: Any) -> None:
        self.model = model

    def preprocess(self, instance: list[Any]) -> Tensor:
        """Return the input for one instance; raise BadInstance."""
        (name,) = INPUTS
        return read_tensor(name, instance)

    def inference(self, batch: Tensor) -> Any:
        """Return the outputs of the network."""
        return self.model(batch)

    def postprocess(self, output: Any) -> Any:
        """Return the prediction for one output: name its parts or labels here. Tensors become arrays."""
        return output


def read_tensor(name: str, value: Any) -> Tensor:
    """Return numbers, nested as INPUTS has their shape, as a tensor; raise BadInstance."""
    dtype, shape = INPUTS[name]
    try:
        tensor = torch.tensor(value, dtype=dtype)
    except (TypeError, ValueError, RuntimeError) as error:
        raise BadInstance(f"{name}: expected an array of numbers: {error}") from None
    pairs = zip(tensor.shape, shape, strict=False)
    if tensor.dim() != len(shape) or any(size not in (got, None) for got, size in pairs):
        raise BadInstance(f"{name}: expected the shape {shape}; got {tuple(tensor.shape)}")
    return tensor
