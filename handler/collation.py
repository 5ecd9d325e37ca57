"""Group samples into passes through the model, and build the batch of each."""

import math
from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import Tensor
from torch.utils.data import default_collate

from task import Batch, Sample
from task.adapter import AdaptedTask

MAX_SAMPLES_PER_PASS = 512
"""A larger batch takes several passes, because a pass needs memory for each of its samples."""
MAX_SLOWDOWN = 0.03
"""How much more time per sample the smallest sufficient pass may take than the fastest."""
MAX_STAGED_BYTES = 64 << 10
"""Smaller tensors are not pinned: the driver copies them to memory of its own, and returns before the GPU has them."""
MAX_PINNED_BYTES = 128 << 20
"""Larger ones are not pinned either: torch keeps pinned memory of each size, in powers of two, for later passes."""
MAX_SIZE_RATIO = 2
"""The largest sample of a pass has at most this many times the size of its smallest."""

Structure = Any
"""The structure of a sample with the shapes and dtypes of its tensors; equal ones can be stacked."""
SCALARS = (bool, int, float, str, bytes)
"""The types, beside tensors and arrays, that default_collate batches."""


def plan_passes(
    task: AdaptedTask,
    samples: Sequence[Sample],
    indexes: list[int],
    sizes: Sequence[float] | None,
    max_samples: int | None = None,
) -> list[list[int]]:
    """Return the `indexes` of the samples, those of each pass in a list.

    A pass has at most `max_samples`, None: as many as its memory allows. Its samples have sizes within a factor of
    MAX_SIZE_RATIO, if `sizes` is given, unless more padding takes less time than another pass, and tensors of equal
    shapes, if the task does not collate them itself.
    """
    groups = [indexes] if indexes else []
    if task.collate is None and len(indexes) > 1 and not _are_equal_tensors(samples):
        by_structure: dict[Structure, list[int]] = {}
        for index in indexes:
            by_structure.setdefault(_find_structure(samples[index]), []).append(index)
        groups = list(by_structure.values())
    if sizes is not None:
        groups = [
            part
            for group in groups
            for part in _join_parts(_split_by_size(group, sizes), sizes, task.max_padding)
        ]
    limit = min(max_samples or MAX_SAMPLES_PER_PASS, MAX_SAMPLES_PER_PASS)
    if len(indexes) <= limit:
        return groups
    return [part for group in groups for part in _split_evenly(group, limit)]


def find_max_samples(times_ms: Mapping[int, float]) -> int | None:
    """Return how many samples a pass needs, given the time of a pass by its number; None: the more the better.

    A larger pass is not faster per sample where the model uses the cores and their caches fully.
    """
    sizes = [size for size in sorted(times_ms) if size > 1]
    fastest = min((times_ms[size] / size for size in sizes), default=0)
    for size in sizes[:-1]:
        if times_ms[size] / size <= fastest * (1 + MAX_SLOWDOWN):
            return size
    return None


def find_max_padding(times_ms: Mapping[int, float], size: float) -> float:
    """Return how much padding, in units of `size`, takes as long as another pass; 0 if that is not known.

    `times_ms` has the time of a pass by its number of samples, which all have the size.
    """
    smallest, largest = min(times_ms), max(times_ms)
    if smallest == largest:
        return 0
    growth_ms = times_ms[largest] - times_ms[smallest]
    if growth_ms <= 0:
        return math.inf
    return size * (largest - smallest) * times_ms[smallest] / growth_ms


def measure(task: AdaptedTask, sample: Sample) -> float:
    """Return the size of a sample; raise ValueError if the task returns no finite number."""
    assert task.size is not None
    size = float(task.size(sample))
    if not math.isfinite(size):
        raise ValueError(f"size returned {size}; expected a finite number")
    return size


def build_batch(task: AdaptedTask, samples: list[Sample]) -> Batch:
    """Return the batch of samples of one pass, on the task's device."""
    if task.collate is not None:
        batch = task.collate(samples)
    elif isinstance(samples[0], Tensor):
        batch = _stack(samples, task.device)
    elif _find_structure(samples[0]) is None:
        batch = list(samples)
    else:
        batch = default_collate(samples)
    return move(batch, task.device) if task.has_accelerator else batch


def move(value: Any, device: torch.device | str) -> Any:
    """Return a value with the tensors in it moved to a device.

    A copy to a GPU may not have ended when this returns; what is computed from it there waits. torch does not use
    pinned memory again before the copies from it have ended.
    """
    if isinstance(value, Tensor) and _is_cuda(device):
        return (_pin(value) if _needs_pinning(value, 1) else value).to(device, non_blocking=True)
    if hasattr(value, "to"):  # also the batches of other libraries, such as transformers'
        return value.to(device)
    if isinstance(value, Mapping):
        return {key: move(item, device) for key, item in value.items()}
    if isinstance(value, tuple):
        items = [move(item, device) for item in value]
        return type(value)(*items) if hasattr(value, "_fields") else tuple(items)
    if isinstance(value, list):
        return [move(item, device) for item in value]
    return value


def _stack(samples: list[Tensor], device: torch.device | str) -> Tensor:
    """Stack tensors; for a GPU in pinned memory, which it reads without another copy."""
    first = samples[0]
    if not _is_cuda(device) or not _needs_pinning(first, len(samples)):
        return torch.stack(samples)
    return torch.stack(samples, out=_allocate_pinned((len(samples), *first.shape), first.dtype))


def _is_cuda(device: torch.device | str) -> bool:
    return torch.device(device).type == "cuda"


def _needs_pinning(tensor: Tensor, count: int) -> bool:
    """Whether tensors like this are so large that the driver would wait for their copy, and not too large."""
    is_plain = tensor.device.type == "cpu" and tensor.layout is torch.strided
    return is_plain and MAX_STAGED_BYTES < count * tensor.nbytes <= MAX_PINNED_BYTES


def _pin(tensor: Tensor) -> Tensor:
    if tensor.is_pinned():
        return tensor
    return torch.empty_like(tensor, pin_memory=True).copy_(tensor)  # pin_memory() fails if expanded


def _allocate_pinned(shape: tuple[int, ...], dtype: torch.dtype) -> Tensor:
    return torch.empty(shape, dtype=dtype, pin_memory=True)


def _split_evenly(group: list[int], max_samples: int) -> list[list[int]]:
    parts = math.ceil(len(group) / max_samples)
    size = math.ceil(len(group) / parts)
    return [group[start : start + size] for start in range(0, len(group), size)]


def _split_by_size(group: list[int], sizes: Sequence[float]) -> list[list[int]]:
    parts: list[list[int]] = []
    smallest = 0.0
    for index in sorted(group, key=sizes.__getitem__):
        if not parts or sizes[index] > MAX_SIZE_RATIO * smallest:
            parts.append([])
            smallest = sizes[index]
        parts[-1].append(index)
    return parts


def _join_parts(
    parts: list[list[int]], sizes: Sequence[float], max_padding: float
) -> list[list[int]]:
    """Join parts of growing sizes where the samples of the smaller need little padding for the size of the larger."""
    joined: list[list[int]] = []
    for part in parts:
        if joined and max_padding:
            padding = len(joined[-1]) * (sizes[part[-1]] - sizes[joined[-1][-1]])
            if padding <= max_padding:
                joined[-1] += part
                continue
        joined.append(part)
    return joined


def _are_equal_tensors(samples: Sequence[Sample]) -> bool:
    """Whether all samples are tensors of one shape and dtype: the common case, decided faster."""
    first = samples[0]
    if not isinstance(first, Tensor):
        return False
    shape, dtype = first.shape, first.dtype
    for sample in samples:
        if not isinstance(sample, Tensor) or sample.dtype is not dtype or sample.shape != shape:
            return False
    return True


def _find_structure(sample: Sample) -> Structure:
    """Return the structure of a sample, or None if default_collate cannot batch it."""
    if isinstance(sample, Tensor):
        return sample.dtype, sample.shape
    if isinstance(sample, SCALARS):
        return type(sample)
    if type(sample).__module__ == "numpy":  # default_collate has the same condition
        is_numeric = sample.dtype.kind in "biuf"
        return ("array", sample.dtype.str, sample.shape) if is_numeric else None
    if isinstance(sample, Mapping):
        keys, items = tuple(sample), list(sample.values())
    elif isinstance(sample, (tuple, list)):
        keys, items = (), list(sample)
    else:
        return None
    parts = tuple(_find_structure(item) for item in items)
    return None if None in parts or not parts else (type(sample), keys, parts)
