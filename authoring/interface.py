"""Find how to call a TorchScript module: by trying what it accepts, with the instances that it is for."""

import itertools
import re
from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor

from authoring.errors import NewModelError
from task import BadInstance
from task.images import read_image

SIDES = (224, 256, 299, 384, 128, 96, 64, 32, 28)
"""Sides of pictures that are tried, after the side of the picture itself if it is small."""
SMALL_SIDE = 64
MIN_PICTURE_CHARS = 100
"""A shorter string is a text, and not base64."""
RESETS = ("reset_states", "reset_state", "reset_hidden", "reset")
"""Methods of networks with a state."""
SCALARS: dict[str, Any] = {"int": int, "float": (int, float), "bool": bool, "str": str}


@dataclass
class Interface:
    """How to call a module, as found by trying."""

    constants: dict[str, Any] = field(default_factory=dict)
    dtypes: dict[str, torch.dtype] = field(default_factory=dict)
    shapes: dict[str, list[int | None]] = field(default_factory=dict)
    side: int = 0
    """The side of a picture, or 0."""
    channels: int = 3
    is_object: bool = False
    """Whether an instance is an object with the inputs, and not the only input itself."""
    is_batched: bool = True
    has_row: bool = False
    """Whether the output for one sample is a tensor with a first dimension of 1."""
    reset: str = ""
    """The method that resets a state between two calls."""
    notes: list[str] = field(default_factory=list)


def find_interface(
    module: Any, arguments: list[Any], instances: list[Any], schema: str
) -> Interface:
    """Find how to call the module with these instances, which lose a dimension of the batch if they have one."""
    found = Interface()
    tensors = _read_arguments(found, arguments, instances, schema)
    if _is_picture(instances[0]):
        return _find_picture(found, module, tensors, instances, schema)
    if found.is_object and any(
        not isinstance(each, dict) or not each.keys() >= set(tensors) for each in instances
    ):
        raise NewModelError(f"an instance lacks one of {', '.join(tensors)}")
    values = [_values(each, tensors, found.is_object) for each in instances]
    error = ""
    # One row of a table, [[...]], is a batch of one; other layers take a dimension of 1.
    first = next((each for each in module.parameters() if each.dim() > 1), None)
    is_row = first is not None and first.dim() == 2 and _is_row(values[0])
    strips = (True, False) if is_row else (False, True)
    for strip, dtypes in itertools.product(strips, _dtype_choices(values[0])):
        try:
            found.dtypes = dict(zip(tensors, dtypes, strict=True))
            shown = [{k: v[0] for k, v in each.items()} for each in values] if strip else values
            samples = [_to_tensors(each, found.dtypes) for each in shown]
            alone = [_call(module, _stack([each]), found) for each in samples]
        except Exception as reason:  # noqa: BLE001  whatever the module raises, the next choice is tried
            error = error or str(reason).strip().rpartition("\n")[2]
            continue
        if strip:
            instances[:] = [
                each if found.is_object else next(iter(each.values())) for each in shown
            ]
            found.notes.append("the instances lost their first dimension, that of the batch")
        _check_calls(found, module, samples, alone)
        found.shapes = _find_shapes(found, module, samples)
        return found
    raise NewModelError(f"forward{schema} does not accept the instance of EXAMPLE: {error}")


def _read_arguments(
    found: Interface, arguments: list[Any], instances: list[Any], schema: str
) -> list[str]:
    """Fill in the constants, and return the names of the tensors."""
    first = instances[0]
    names = [each.name for each in arguments]
    found.is_object = isinstance(first, dict) and set(first) <= set(names)
    tensors = []
    for argument in arguments:
        kind = re.sub(r"^Optional\[(.*)\]$", r"\1", str(argument.type))
        is_given = found.is_object and argument.name in first
        if not is_given and (argument.has_default_value() or str(argument.type) != kind):
            continue
        if kind in SCALARS:
            if not is_given or not isinstance(first[argument.name], SCALARS[kind]):
                raise NewModelError(
                    f'forward{schema}: the instance lacks "{argument.name}", of type {kind}; expected '
                    f"an object with {', '.join(names)}"
                )
            found.constants[argument.name] = first[argument.name]
            for instance in instances:
                if instance.pop(argument.name, None) != found.constants[argument.name]:
                    raise NewModelError(
                        f"{argument.name} differs; expected one value for all instances"
                    )
        elif kind == "Tensor":
            tensors.append(argument.name)
        else:
            raise NewModelError(
                f"forward{schema}: {kind} is not supported; copy an example instead"
            )
    if not tensors:
        raise NewModelError(f"forward{schema} takes no tensor; copy an example instead")
    if not found.is_object and len(tensors) > 1:
        expected = ", ".join(f'"{name}": ...' for name in tensors)
        raise NewModelError(f"forward{schema}: expected instances {{{expected}}}")
    if found.is_object and len(first) < len(tensors):
        raise NewModelError(f"the instance lacks {', '.join(set(tensors) - set(first))}")
    return tensors


def _find_picture(
    found: Interface, module: Any, tensors: list[str], instances: list[Any], schema: str
) -> Interface:
    first = next((each for each in module.parameters() if each.dim() == 4), None)
    found.channels = 1 if first is not None and first.shape[1] == 1 else 3
    if isinstance(instances[0], str) and len(instances[0]) < MIN_PICTURE_CHARS:
        raise NewModelError(
            f"forward{schema} takes numbers, and the instance is a text: copy an example that has a "
            "tokenizer (FROM=text)"
        )
    try:
        pictures = [read_image(each, "L" if found.channels == 1 else "RGB") for each in instances]
    except BadInstance as error:
        hint = "texts need a tokenizer: copy FROM=text" if isinstance(instances[0], str) else ""
        raise NewModelError(
            f"forward{schema} takes numbers; the instance: {error}. {hint}"
        ) from None
    own = {each.size for each in pictures}
    width, height = next(iter(own))
    sides = [width] if len(own) == 1 and width == height <= SMALL_SIDE else []
    for side in (*sides, *SIDES):
        try:
            samples = [torch.rand(found.channels, side, side) for _ in instances]
            named = [{tensors[0]: each} for each in samples]
            alone = [_call(module, _stack([each]), found) for each in named]
        except Exception:  # noqa: BLE001, S112  whatever the module raises, the next side is tried
            continue
        found.side = side
        found.notes.append(
            f"model.py resizes pictures to {side} x {side} and scales pixels to 0 to 1: "
            "set SIDE, MEAN and STD as they were in training"
        )
        _check_calls(found, module, named, alone)
        return found
    raise NewModelError(
        f"forward{schema} accepts no picture with a side of {', '.join(map(str, SIDES))}"
    )


def _is_picture(instance: Any) -> bool:
    """Return whether an instance is text, or an object with base64 as `read_image` accepts it."""
    keys = set(instance) if isinstance(instance, dict) else set()
    has_text = keys and all(isinstance(each, (str, dict)) for each in instance.values())
    return isinstance(instance, str) or bool(has_text and keys <= {"b64", "data", "image"})


def _is_row(values: dict[str, Any]) -> bool:
    return all(
        isinstance(each, list)
        and len(each) == 1
        and isinstance(each[0], list)
        and not any(isinstance(number, list) for number in each[0])
        for each in values.values()
    )


def _values(instance: Any, tensors: list[str], is_object: bool) -> dict[str, Any]:
    return {name: instance[name] for name in tensors} if is_object else {tensors[0]: instance}


def _dtype_choices(values: dict[str, Any]) -> Iterator[tuple[torch.dtype, ...]]:
    """Yield the dtypes that the inputs may have, the likely ones first."""
    choices: list[tuple[torch.dtype, ...]] = []
    for value in values.values():
        kinds = {type(each) for each in _flatten(value)}
        if kinds <= {bool}:
            choices.append((torch.bool, torch.float32))
        elif kinds <= {int}:
            choices.append((torch.int64, torch.float32, torch.float64, torch.int32, torch.uint8))
        else:
            choices.append((torch.float32, torch.float64, torch.float16))
    return itertools.product(*choices)


def _flatten(value: Any) -> Iterator[Any]:
    if isinstance(value, list):
        for each in value:
            yield from _flatten(each)
    else:
        yield value


def _to_tensors(values: dict[str, Any], dtypes: dict[str, torch.dtype]) -> dict[str, Tensor]:
    return {name: torch.tensor(value, dtype=dtypes[name]) for name, value in values.items()}


def _stack(samples: list[dict[str, Tensor]]) -> dict[str, Tensor]:
    return {name: torch.stack([each[name] for each in samples]) for name in samples[0]}


def _call(module: Any, batch: dict[str, Tensor], found: Interface) -> Any:
    if found.reset:
        getattr(module, found.reset)()
    with torch.inference_mode():
        return module(**batch, **found.constants)


def _check_calls(
    found: Interface, module: Any, samples: list[dict[str, Tensor]], alone: list[Any]
) -> None:
    """Find out whether the module keeps a state, and whether it takes a batch."""
    if not _is_close(alone[0], _call(module, _stack(samples[:1]), found)):
        found.reset = next((name for name in RESETS if _takes_nothing(module, name)), "")
        alone[:] = [_call(module, _stack([each]), found) for each in samples]
        if not _is_close(alone[0], _call(module, _stack(samples[:1]), found)):
            found.notes.append(
                "the same request gets different answers: the model keeps a state, or is random"
            )
    try:
        pair = samples[:2] if _shapes(samples[0]) == _shapes(samples[1]) else samples[:1] * 2
        together = _call(module, _stack(pair), found)
        rows = [_take_row(together, index) for index in range(2)]
        expected = [
            _take_row(each, 0) for each in (alone[:2] if pair[1] is samples[1] else alone[:1] * 2)
        ]
        found.is_batched = all(_is_close(a, b) for a, b in zip(rows, expected, strict=True))
    except Exception:  # noqa: BLE001  the module takes one sample at a time
        found.is_batched = False
    if not found.is_batched:
        found.has_row = all(isinstance(each, Tensor) and each.shape[:1] == (1,) for each in alone)
        found.notes.append("the model does not take a batch: inference runs one sample at a time")


def _takes_nothing(module: Any, name: str) -> bool:
    schema = getattr(getattr(module, name, None), "schema", None)
    return schema is not None and len(schema.arguments) == 1


def _shapes(sample: dict[str, Tensor]) -> list[torch.Size]:
    return [each.shape for each in sample.values()]


def _take_row(output: Any, index: int) -> Any:
    if isinstance(output, dict):
        return {key: _take_row(each, index) for key, each in output.items()}
    if isinstance(output, tuple):
        return tuple(_take_row(each, index) for each in output)
    return output[index]


def _is_close(first: Any, second: Any) -> bool:
    if isinstance(first, Tensor):
        same = first.shape == second.shape
        return same and bool(torch.isclose(first.double(), second.double(), 1e-3, 1e-5).all())
    if isinstance(first, dict):
        return all(_is_close(first[key], second[key]) for key in first)
    if isinstance(first, (list, tuple)):
        return len(first) == len(second) and all(map(_is_close, first, second))
    return bool(first == second)


def _find_shapes(
    found: Interface, module: Any, samples: list[dict[str, Tensor]]
) -> dict[str, list[int | None]]:
    """Return the shape of each input, with None where the module accepts another size too."""
    shapes: dict[str, list[int | None]] = {}
    for name, tensor in samples[0].items():
        shapes[name] = list(tensor.shape)
        for dimension in range(tensor.dim()):
            longer = {
                key: torch.cat([each, each], dimension) if each.shape == tensor.shape else each
                for key, each in samples[0].items()
            }
            try:
                _call(module, _stack([longer]), found)
            except Exception:  # noqa: BLE001, S112  the size is fixed
                continue
            shapes[name][dimension] = None
    return shapes
