"""Split what `inference` returns for N samples into N outputs, with their tensors on the CPU."""

import dataclasses
from collections.abc import Mapping
from typing import Any

from torch import Tensor

from handler.collation import move

EXPECTED = "a tensor or array with N first, a list of N values, or a dict or tuple of these"


class OutputError(Exception):
    """The output of `inference` cannot be split into one output per sample."""


def split_output(output: Any, count: int, path: str = "") -> list[Any]:
    """Return the outputs of `count` samples; raise OutputError.

    Dicts and tuples are split in each of their values, so that every sample gets a dict or tuple; None as a
    value of a dict stays None. A list has one value for each sample.
    """
    if isinstance(output, Tensor):
        _check_count(len(output) if output.dim() else None, count, path, output)
        return list(output.cpu().unbind(0))
    if type(output).__module__ == "numpy":
        _check_count(len(output) if output.ndim else None, count, path, output)
        return list(output)
    if isinstance(output, list):
        _check_count(len(output), count, path, output)
        return [move(each, "cpu") for each in output]
    if isinstance(output, Mapping):
        columns = {
            key: [None] * count if value is None else split_output(value, count, f"{path}[{key!r}]")
            for key, value in output.items()
        }
        if not columns:
            _check_count(0, count, path, output)
        values = zip(*columns.values(), strict=True)
        rows = [dict(zip(columns, row, strict=True)) for row in values]
        if dataclasses.is_dataclass(output):  # transformers' ModelOutput, read by its attributes
            return [type(output)(**row) for row in rows]
        return rows
    if isinstance(output, tuple) and output:
        parts = [split_output(value, count, f"{path}[{n}]") for n, value in enumerate(output)]
        values = zip(*parts, strict=True)
        return [type(output)(*row) if hasattr(output, "_fields") else row for row in values]
    raise OutputError(
        f"inference returned {_describe(output)}{_at(path)} for {count} samples; "
        f"expected {EXPECTED}"
    )


def _check_count(got: int | None, count: int, path: str, output: Any) -> None:
    if got != count:
        text = "a single value" if got is None else f"{got} values"
        is_list_of_outputs = isinstance(output, list) and output and isinstance(output[0], Tensor)
        hint = "return several outputs as a tuple" if is_list_of_outputs else f"expected {EXPECTED}"
        raise OutputError(
            f"inference returned {text} ({_describe(output)}{_at(path)}) for {count} samples; {hint}"
        )


def _at(path: str) -> str:
    return f" at {path}" if path else ""


def _describe(output: Any) -> str:
    if hasattr(output, "shape"):
        return f"{type(output).__name__} of shape {tuple(output.shape)}"
    return type(output).__name__
