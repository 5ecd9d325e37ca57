"""Batch tensors of different shapes by padding them."""

import functools
from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import Tensor
from torch.utils.data import default_collate


def pad_samples(samples: Sequence[Any], value: float | Mapping[str, float]) -> Any:
    """Batch samples as `task.pad` documents."""
    first = samples[0]
    if isinstance(first, Tensor):
        return _pad_tensors(samples, _value_of(value, None))
    if isinstance(first, Mapping):
        return {
            key: pad_samples([sample[key] for sample in samples], _value_of(value, key))
            for key in first
        }
    if isinstance(first, tuple):
        parts = [pad_samples(part, value) for part in zip(*samples, strict=True)]
        return type(first)(*parts) if hasattr(first, "_fields") else tuple(parts)
    return default_collate(list(samples))


def _value_of(value: float | Mapping[str, float], key: str | None) -> float:
    if not isinstance(value, Mapping):
        return value
    return value.get(key, 0) if key is not None else 0


def _pad_tensors(tensors: Sequence[Tensor], value: float) -> Tensor:
    dimensions = {tensor.dim() for tensor in tensors}
    if len(dimensions) > 1:
        raise ValueError(f"pad: the tensors have {sorted(dimensions)} dimensions; expected one")
    shape = [max(sizes) for sizes in zip(*(tensor.shape for tensor in tensors), strict=True)]
    # As torch.stack does: integers beside floats become floats, and no float is cut to an integer.
    dtype = functools.reduce(torch.promote_types, (tensor.dtype for tensor in tensors))
    padded = tensors[0].new_full((len(tensors), *shape), value, dtype=dtype)
    for row, tensor in zip(padded, tensors, strict=True):
        row[tuple(slice(size) for size in tensor.shape)] = tensor
    return padded
