"""Give every task the same methods, whichever of the optional members and arguments it has."""

import inspect
import json
from collections.abc import Callable, Iterator, Sequence
from typing import TYPE_CHECKING, Any

from task import JSON, BadInstance, BadParameter, Batch, Golden, Sample
from task.mismatch import convert_integers, find_mismatch
from task.requests_file import Example
from task.schema import Schema, TaskSchema

if TYPE_CHECKING:
    import torch

REQUIRED = {
    "preprocess": "preprocess(instance, parameters)",
    "inference": "inference(batch)",
    "postprocess": "postprocess(output, parameters)",
}


class TaskError(Exception):
    """A task lacks a method, or a method has another signature than `task.Task` documents."""


class AdaptedTask:
    """A task for the handler. `wrapped` is the task of the model."""

    def __init__(
        self,
        task: Any,
        device: "torch.device | str" = "cpu",
        examples: Sequence[Example] = (),
    ) -> None:
        """Check the signatures of `task`; raise TaskError.

        Without `examples`, those of requests.json, the task's `golden` is the only example.
        """
        missing = [text for name, text in REQUIRED.items() if not callable(_get(task, name))]
        if missing:
            name = type(task).__name__
            raise TaskError(f"load returned a {name} without the method {', '.join(missing)}")
        self.wrapped, self.device = task, device
        self.has_accelerator = str(device) != "cpu"
        self.labels = _read_labels(task)
        self.schema = TaskSchema(task, examples, self.labels)
        golden: Golden | None = _get(task, "golden")
        if not examples and golden is not None:
            examples = [Example(golden.instance, {}, golden.expected, name="golden instance")]
        self.examples = list(examples)
        self.inference: Callable[[Batch], Any] = task.inference
        self.collate: Callable[[list[Sample]], Batch] | None = _get(task, "collate")
        self.size: Callable[[Sample], float] | None = _get(task, "size")
        self.stream: Callable[[Sample, dict[str, JSON]], Iterator[JSON]] | None = None
        if _get(task, "stream") is not None:
            self.stream = _with_parameters(task, "stream")
        self.accepts: list[str] = list(_get(task, "accepts") or ())
        self.network: Any = _get(task, "network")
        self.preprocess: Callable[[JSON, dict[str, JSON]], Sample] = _with_parameters(
            task, "preprocess"
        )
        self.postprocess: Callable[[Any, dict[str, JSON]], Any] = _with_parameters(
            task, "postprocess"
        )
        if self.schema.declared.instance or self.schema.declared.parameters:
            self.preprocess = _with_validation(self.preprocess, self.schema)
        if "integer" in json.dumps(self.schema.declared.parameters):
            self.postprocess = _with_integers(self.postprocess, self.schema.declared.parameters)
            if self.stream is not None:
                self.stream = _with_integers(self.stream, self.schema.declared.parameters)


def adapt(
    task: Any, device: "torch.device | str" = "cpu", examples: Sequence[Example] = ()
) -> AdaptedTask:
    """Return the task with uniform methods, or itself if it has them already; raise TaskError."""
    return task if isinstance(task, AdaptedTask) else AdaptedTask(task, device, examples)


def _read_labels(task: Any) -> list[str]:
    """Return the names of a task's classes, which may also be a dict by index."""
    labels = _get(task, "labels")
    if labels is None:
        return []
    return [str(label) for label in (labels.values() if isinstance(labels, dict) else labels)]


def _get(task: Any, name: str) -> Any:
    return getattr(task, name, None)


def _with_parameters(task: Any, name: str) -> Callable[[Any, dict[str, JSON]], Any]:
    """Return a method that takes a value and parameters; the task's own may take only the value."""
    method: Callable[..., Any] = getattr(task, name)
    try:
        signature = inspect.signature(method)
    except (TypeError, ValueError):  # a method of a C extension has none
        return method
    kinds = inspect.Parameter
    arguments = list(signature.parameters.values())
    positional = [
        a for a in arguments if a.kind in (kinds.POSITIONAL_ONLY, kinds.POSITIONAL_OR_KEYWORD)
    ]
    required = [a for a in positional if a.default is kinds.empty]
    required += [a for a in arguments if a.kind is kinds.KEYWORD_ONLY and a.default is kinds.empty]
    is_variadic = any(a.kind is kinds.VAR_POSITIONAL for a in arguments)
    second = positional[1] if len(positional) > 1 else None
    takes_two = is_variadic or (
        second is not None and (second.default is kinds.empty or second.name == "parameters")
    )
    takes_one = positional or is_variadic
    if not takes_one or len(required) > 1 + takes_two:
        expected = REQUIRED.get(name, "stream(sample, parameters)")
        raise TaskError(
            f"{type(task).__name__}.{name} has the signature {name}{signature}; expected {expected}"
        )
    return method if takes_two else lambda value, _: method(value)


def _with_validation(
    preprocess: Callable[[JSON, dict[str, JSON]], Sample], schema: TaskSchema
) -> Callable[[JSON, dict[str, JSON]], Sample]:
    """Return a preprocess that first compares its arguments with the task's type hints."""
    for_instance, for_parameters, _ = schema.declared

    def preprocess_valid(instance: JSON, parameters: dict[str, JSON]) -> Sample:
        if mismatch := find_mismatch(for_parameters, parameters):
            raise BadParameter(mismatch)
        if mismatch := find_mismatch(for_instance, instance):
            raise BadInstance(mismatch)
        return preprocess(
            convert_integers(for_instance, instance), convert_integers(for_parameters, parameters)
        )

    return preprocess_valid


def _with_integers(
    method: Callable[[Any, dict[str, JSON]], Any], schema: Schema
) -> Callable[[Any, dict[str, JSON]], Any]:
    return lambda value, parameters: method(value, convert_integers(schema, parameters))
