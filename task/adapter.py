"""Give every task the same methods, whichever of the optional members and arguments it has."""

import inspect
import json
import re
from collections.abc import Callable, Iterator, Sequence
from fnmatch import fnmatchcase
from typing import TYPE_CHECKING, Any

from task import JSON, BadInstance, BadParameter, Batch, Golden, Sample
from task.matcher import compile_match
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


NOT_RAW = ("application/json", "multipart/form-data", "application/x-www-form-urlencoded")
"""Content types that a raw body does not have: TorchServe decodes forms."""
CONTENT_TYPE = re.compile(r"[\w!#$&^.+-]+/([\w!#$&^.+-]+|\*)|\*/\*", re.ASCII)


class TaskError(Exception):
    """A task lacks a member, or one is unlike what `task.Task` documents."""


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
        self.max_samples: int | None = None
        """The maximum number of samples in a pass, if more are no faster, or need more memory than the device has."""
        self.max_padding = 0.0
        """How much padding, in units of `size`, takes as long as another pass; 0 if that is not known."""
        self.stream: Callable[[Sample, dict[str, JSON]], Iterator[JSON]] | None = None
        if _get(task, "stream") is not None:
            self.stream = _with_parameters(task, "stream")
        self.explain: Callable[[Sample, dict[str, JSON]], JSON] | None = None
        if _get(task, "explain") is not None:
            self.explain = _with_parameters(task, "explain")
        self.accepts = _read_accepts(task)
        self.network: Any = _get(task, "network")
        self.preprocess: Callable[[JSON, dict[str, JSON]], Sample] = _with_parameters(
            task, "preprocess"
        )
        self.postprocess: Callable[[Any, dict[str, JSON]], Any] = _with_parameters(
            task, "postprocess"
        )
        if self.schema.declared.instance or self.schema.declared.parameters:
            takes_text = any(each.startswith(("text/", "*/")) for each in self.accepts)
            self.preprocess = _with_validation(self.preprocess, self.schema, takes_text)
        if "integer" in json.dumps(self.schema.declared.parameters):
            self.postprocess = _with_integers(self.postprocess, self.schema.declared.parameters)
            if self.stream is not None:
                self.stream = _with_integers(self.stream, self.schema.declared.parameters)
            if self.explain is not None:
                self.explain = _with_integers(self.explain, self.schema.declared.parameters)

    def accepts_type(self, media_type: str) -> bool:
        """Whether a raw body may have a content type, which is in lowercase and without parameters."""
        return media_type not in NOT_RAW and any(
            fnmatchcase(media_type, each) for each in self.accepts
        )


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


def _read_accepts(task: Any) -> list[str]:
    """Return the content types of raw bodies in lowercase; raise TaskError."""
    accepts = _get(task, "accepts") or ()
    for each in [accepts] if isinstance(accepts, str) else accepts:
        if isinstance(accepts, str) or not CONTENT_TYPE.fullmatch(str(each)) or each in NOT_RAW:
            expected = '["image/png", "text/*"]; not of JSON and forms'
            raise TaskError(f"accepts: expected a list of content types, {expected}; got {each!r}")
    return [each.lower() for each in accepts]


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
        expected = REQUIRED.get(name, f"{name}(sample, parameters)")
        raise TaskError(
            f"{type(task).__name__}.{name} has the signature {name}{signature}; expected {expected}"
        )
    return method if takes_two else lambda value, _: method(value)


def _with_validation(
    preprocess: Callable[[JSON, dict[str, JSON]], Sample], schema: TaskSchema, takes_text: bool
) -> Callable[[JSON, dict[str, JSON]], Sample]:
    """Return a preprocess that first compares its arguments with the task's type hints.

    An instance that is a raw body is compared only if it is a text, and the hint has texts.
    """
    for_instance, for_parameters, _ = schema.declared
    types = {each.get("type") for each in (for_instance, *for_instance.get("anyOf", ()))}
    raw_types = (bytes, str) if takes_text and "string" not in types else bytes

    has_valid_parameters = compile_match(for_parameters)
    is_valid_instance = compile_match(for_instance)

    def preprocess_valid(instance: JSON, parameters: dict[str, JSON]) -> Sample:
        if not has_valid_parameters(parameters):
            if mismatch := find_mismatch(for_parameters, parameters):
                raise BadParameter(mismatch)
            parameters = convert_integers(for_parameters, parameters)
        if not (is_valid_instance(instance) or isinstance(instance, raw_types)):
            if mismatch := find_mismatch(for_instance, instance):
                raise BadInstance(mismatch)
            instance = convert_integers(for_instance, instance)
        return preprocess(instance, parameters)

    return preprocess_valid


def _with_integers(
    method: Callable[[Any, dict[str, JSON]], Any], schema: Schema
) -> Callable[[Any, dict[str, JSON]], Any]:
    return lambda value, parameters: method(value, convert_integers(schema, parameters))
