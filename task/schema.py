"""Describe what a task accepts and returns, as OpenAPI 3.0 schemas from type hints or from examples."""

import inspect
import logging
from collections.abc import Sequence
from typing import Any, NamedTuple, get_type_hints

from task.hints import schema_of_hint
from task.infer import infer_object, infer_schema
from task.mismatch import find_mismatch
from task.requests_file import Example

Schema = dict[str, Any]
"""A schema object of OpenAPI 3.0; {} accepts every value."""

log = logging.getLogger(__name__)


class Declared(NamedTuple):
    """The schemas from a task's type hints; {} where there is no hint."""

    instance: Schema
    parameters: Schema
    prediction: Schema


class TaskSchema:
    """The schemas of a task.

    A value that does not match a declared schema is rejected. Schemas inferred from examples may be too
    narrow, so they only explain a failure.
    """

    def __init__(self, task: Any, examples: Sequence[Example], labels: Sequence[str]) -> None:
        """Read the hints of `preprocess` and `postprocess`; examples complete them."""
        self.labels = list(labels)
        self.declared = _read_hints(task)
        instances = [example.instance for example in examples]
        parameters = infer_object([example.parameters for example in examples])
        parameters.pop("required", None)
        expected = [example.expected for example in examples if example.has_check]
        self.instance = _choose(self.declared.instance, infer_schema(instances))
        self.parameters = _choose(self.declared.parameters, parameters)
        self.prediction = _choose(self.declared.prediction, infer_schema(expected, labels))

    def observe(self, predictions: Sequence[Any]) -> None:
        """Infer the prediction's schema from whole predictions: `expected` may leave out keys."""
        self.prediction = _choose(self.declared.prediction, infer_schema(predictions, self.labels))

    def to_json(self) -> dict[str, Any]:
        """Return {"instance", "parameters", "prediction"}, and "x-labels" if the task has labels."""
        labels = {"x-labels": self.labels} if self.labels else {}
        return {
            "instance": self.instance,
            "parameters": self.parameters,
            "prediction": self.prediction,
            **labels,
        }

    def find_instance_mismatch(self, instance: Any) -> str | None:
        """Return why an instance, for which the task failed, is unlike the schema, or None."""
        if isinstance(instance, bytes):  # a raw body
            return None
        return find_mismatch(self.instance, instance)

    def find_parameter_mismatch(self, parameters: dict[str, Any]) -> str | None:
        """Return why parameters, for which the task failed, are unlike the schema, or None."""
        return find_mismatch(self.parameters, parameters)


def _choose(declared: Schema, inferred: Schema) -> Schema:
    """Return the declared schema, unless it is only "an object" or "an array" and the other has more."""
    is_plain = declared in ({}, {"type": "object"}, {"type": "array"})
    is_same_type = not declared or declared.get("type") == inferred.get("type")
    return inferred if is_plain and is_same_type else declared


def _read_hints(task: Any) -> Declared:
    before, after = _hints(task.preprocess), _hints(task.postprocess)
    parameters = _merge_objects(before.second, after.second)
    if "properties" in parameters:
        parameters["additionalProperties"] = False  # a misspelt name is an error
    if parameters == {"type": "object"}:  # parameters are always an object
        parameters = {}
    return Declared(before.first, parameters, after.returned)


class _Hints(NamedTuple):
    first: Schema
    second: Schema
    returned: Schema


def _hints(method: Any) -> _Hints:
    try:
        hints = get_type_hints(method, include_extras=True)
        names = list(inspect.signature(method).parameters)
        schemas = [schema_of_hint(hints.get(name, Any)) for name in [*names, "return"]]
    except (NameError, TypeError, ValueError, AttributeError, RecursionError) as error:
        # Names that are imported only for type checkers, and recursive types, cannot be resolved.
        log.info("the type hints of %s are not used: %s", method, error)
        return _Hints({}, {}, {})
    has_parameters = len(names) > 1 and names[1] == "parameters"
    first = schemas[0] if names else {}
    return _Hints(first, schemas[1] if has_parameters else {}, schemas[-1])


def _merge_objects(first: Schema, second: Schema) -> Schema:
    if "properties" not in first or "properties" not in second:
        return dict(first if "properties" in first else second or first)
    merged = {**first, "properties": {**first["properties"], **second["properties"]}}
    required = dict.fromkeys([*first.get("required", []), *second.get("required", [])])
    return {**merged, "required": list(required)} if required else merged
