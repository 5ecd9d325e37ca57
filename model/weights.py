"""Read safetensors with torch alone.

The archive must load wherever TorchServe and torch are, and the safetensors package is
not a dependency of either. Its format is small (https://huggingface.co/docs/safetensors):
eight bytes, little-endian, with the header's length; a JSON header that gives each
tensor's dtype, shape and place; the numbers. Training writes with the package itself, and
a test holds this reader against it.
"""

import json
import math
from pathlib import Path

import torch
from torch import Tensor

DTYPES = {"F32": torch.float32, "F16": torch.float16, "BF16": torch.bfloat16, "I64": torch.int64}


class BadWeights(Exception):
    """A weights file that cannot be what training wrote."""


def read(path: Path) -> dict[str, Tensor]:
    """Return the tensors of a safetensors file by name.

    Raises BadWeights where the file is cut short or is something else, FileNotFoundError
    where there is none.
    """
    content = bytearray(path.read_bytes())
    start = 8 + int.from_bytes(content[:8], "little")
    if len(content) < 8 or start > len(content):
        raise BadWeights(f"{path.name} is no safetensors file, or is cut short")
    try:
        header = json.loads(content[8:start])
        header.pop("__metadata__", None)
        return {name: _tensor(content, start, **entry) for name, entry in header.items()}
    except (ValueError, TypeError, KeyError, AttributeError) as error:
        raise BadWeights(f"{path.name} is no safetensors file: {error!r}") from error


def _tensor(
    content: bytearray, start: int, dtype: str, shape: list[int], data_offsets: list[int]
) -> Tensor:
    begin, end = data_offsets
    count, kind = math.prod(shape), DTYPES[dtype]
    if not 0 <= begin <= end <= len(content) - start or end - begin != count * kind.itemsize:
        raise ValueError(f"a tensor of shape {shape} does not lie at {data_offsets}")
    if count == 0:
        return torch.empty(shape, dtype=kind)
    return torch.frombuffer(content, dtype=kind, count=count, offset=start + begin).view(shape)
