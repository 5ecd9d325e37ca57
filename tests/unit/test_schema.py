"""Schemas come from type hints or from requests, and a value that differs is described to the client."""

import json
from collections import Counter
from typing import Annotated, Any, Literal, NotRequired, Optional, TypedDict

import pytest

from handler.batch import predict_batch
from handler.envelope import parse_document
from task.adapter import AdaptedTask, adapt
from task.hints import schema_of_hint
from task.infer import infer_schema
from task.matcher import compile_match
from task.mismatch import convert_integers, find_mismatch
from task.requests_file import Example


class Flower(TypedDict):
    petal_length: float
    colour: NotRequired[Literal["red", "blue"]]


class Options(TypedDict, total=False):
    top_k: int


class Text(TypedDict):
    text: str


class Numbers(TypedDict):
    ids: list[int]
    k: int
    x: float


class Picture(TypedDict):
    b64: str


PICTURE = {
    "type": "object",
    "properties": {"b64": {"type": "string", "format": "byte"}},
    "required": ["b64"],
}
FLOWER = {
    "type": "object",
    "properties": {
        "petal_length": {"type": "number"},
        "colour": {"type": "string", "enum": ["red", "blue"]},
    },
    "required": ["petal_length"],
}


@pytest.mark.parametrize(
    ("hint", "schema"),
    [
        (str, {"type": "string"}),
        (bool, {"type": "boolean"}),
        (list[float], {"type": "array", "items": {"type": "number"}}),
        (tuple[int, int], {"type": "array", "items": {"type": "integer"}}),
        (tuple[int, str], {"type": "array"}),
        (list, {"type": "array"}),
        (dict[str, float], {"type": "object", "additionalProperties": {"type": "number"}}),
        (dict[str, Any], {"type": "object"}),
        (Counter[str], {"type": "object"}),
        (tuple[()], {"type": "array"}),
        (Flower, FLOWER),
        (Picture, PICTURE),
        (int | str, {"anyOf": [{"type": "integer"}, {"type": "string"}]}),
        (int | float, {"type": "number"}),
        (Optional[str], {"type": "string", "nullable": True}),  # noqa: UP045  the older form
        (Annotated[str, "a name"], {"type": "string", "description": "a name"}),
        (bytes, {}),
        (Any, {}),
        (object, {}),
        (None, {}),
    ],
)
def test_type_hint_becomes_a_schema(hint: object, schema: object) -> None:
    assert schema_of_hint(hint) == schema


@pytest.mark.parametrize(
    ("values", "schema"),
    [
        ([], {}),
        ([1, 2.5], {"type": "number"}),
        ([None, "a"], {"type": "string", "nullable": True}),
        ([1, "a"], {"anyOf": [{"type": "number"}, {"type": "string"}]}),
        ([[[1]], []], {"type": "array", "items": {"type": "array", "items": {"type": "number"}}}),
        (
            [{"a": 1}, {"a": 2, "b": True}],
            {
                "type": "object",
                "properties": {"a": {"type": "number"}, "b": {"type": "boolean"}},
                "required": ["a"],
            },
        ),
        ([{"b64": "aGk="}], PICTURE),
        ([{"x": 1}, {"y": 2}], {"type": "object", "additionalProperties": {"type": "number"}}),
    ],
)
def test_examples_become_a_schema_that_accepts_them(values: list[object], schema: object) -> None:
    found = infer_schema(values)
    assert found == schema
    assert all(find_mismatch(found, value) is None for value in values)


def test_objects_whose_keys_are_labels_are_maps() -> None:
    values = [{"scores": {"cat": 0.5, "dog": 0.5}}]
    assert infer_schema(values, labels=["cat", "dog", "cow"])["properties"]["scores"] == {
        "type": "object",
        "additionalProperties": {"type": "number"},
    }


@pytest.mark.parametrize(
    ("hint", "value", "message"),
    [
        (Text, 3, 'expected an object {"text": string}; got a number'),
        (Flower, {"petal_length": "x"}, "petal_length: expected a number; got a string"),
        (Flower, {"petal_length": True}, "petal_length: expected a number; got a boolean"),
        (Flower, {}, "petal_length: missing; expected a number; got an empty object"),
        (
            Flower,
            {"length": 1},
            'petal_length: missing; expected a number; got an object with the keys ["length"]',
        ),
        (
            Flower,
            {"petal_length": 1, "colour": "green"},
            'colour: expected one of "red", "blue"; got "green"',
        ),
        (list[list[float]], [[1, 2], [3, None]], "[1][1]: expected a number; got null"),
        (list[float], {}, "expected an array of numbers; got an empty object"),
        (int, 2.5, "expected an integer; got a number"),
        (int | str, [], "expected integer or string; got an array"),
        (str | None, 1, "expected string or null; got a number"),
    ],
)
def test_mismatch_says_where_and_what_was_expected(
    hint: object, value: object, message: str
) -> None:
    assert find_mismatch(schema_of_hint(hint), value) == message


@pytest.mark.parametrize(
    ("hint", "value"),
    [(int, 2.0), (float, 1), (str | None, None), (Flower, {"petal_length": 1, "id": 7}), (Any, 1)],
)
def test_value_of_the_hinted_type_has_no_mismatch(hint: object, value: object) -> None:
    assert find_mismatch(schema_of_hint(hint), value) is None


def test_whole_floats_become_integers_where_integers_are_declared() -> None:
    schema = schema_of_hint(Numbers)
    converted = convert_integers(schema, {"ids": [1.0, 2], "k": 3.0, "x": 4.0, "y": 5.0})
    assert json.dumps(converted) == '{"ids": [1, 2], "k": 3, "x": 4.0, "y": 5.0}'


MATCHED = [
    (Any, None),
    (int, 2),
    (float, 1),
    (str | None, None),
    (list[list[float]], [[1, 2.5], []]),
    (Text, {"text": "x"}),
    (list[Text], [{"text": "x"}]),
    (Numbers, {"ids": [1, 2], "k": 3, "x": 4.0}),
]


@pytest.mark.parametrize(("hint", "value"), MATCHED)
def test_valid_value_is_recognized_without_a_search_for_mismatches(
    hint: object, value: object
) -> None:
    assert compile_match(schema_of_hint(hint))(value)


@pytest.mark.parametrize("hint", [hint for hint, _ in MATCHED[1:]] + [Flower, dict[str, int]])
@pytest.mark.parametrize(
    "value",
    [
        *(None, True, 1, 2.0, 2.5, "x", {}, {"text": 1}, {"text": "x", "more": 1}),
        *([], [1, 2.0], [True], [[1, "2"]], [{}], [{"text": None}]),
        *({"ids": [1.0], "k": 3.0, "x": 4.0, "y": 5.0}, {"ids": [True], "k": 3, "x": 4}),
        *({"petal_length": 1, "colour": "red"}, {"petal_length": True}),
        *(value for _, value in MATCHED),
    ],
    ids=repr,
)
def test_recognized_value_has_no_mismatch_and_needs_no_conversion(
    hint: object, value: object
) -> None:
    schema = schema_of_hint(hint)
    if compile_match(schema)(value):
        assert find_mismatch(schema, value) is None
        assert repr(convert_integers(schema, value)) == repr(value)


class Hinted:
    """A task with type hints, which would fail for other values."""

    labels = ("long", "short")

    def preprocess(self, instance: Flower, parameters: Options) -> float:
        return instance["petal_length"] + list(range(9))[parameters.get("top_k", 0)]

    def inference(self, batch: Any) -> Any:
        return batch

    def postprocess(self, output: Any, parameters: Options) -> dict[str, float]:
        return {"long": output + list(range(9))[parameters.get("top_k", 0)]}


class Unhinted:
    """A task without type hints, which fails for most values."""

    def preprocess(self, instance, parameters):  # type: ignore[no-untyped-def]  # noqa: ANN001, ANN201
        return float(instance["x"] + parameters.get("offset", 0))

    def inference(self, batch: Any) -> Any:
        return batch

    def postprocess(self, output: Any, parameters: dict[str, Any]) -> Any:
        if parameters.get("offset") == 99:
            raise RuntimeError("bug")
        return output


def respond(task: AdaptedTask, instance: Any, **parameters: Any) -> tuple[int, Any]:
    document = {"instances": [instance], "parameters": parameters}
    (response,) = predict_batch(task, [parse_document(document)])
    body = json.loads(response.body)
    return response.code, body["error"]["message"] if "error" in body else body["predictions"][0]


@pytest.mark.parametrize(
    ("instance", "parameters", "response"),
    [
        ({"petal_length": 1}, {"top_k": 2.0}, (200, {"long": 5.0})),
        (
            3,
            {},
            (
                400,
                'instances[0]: expected an object {"petal_length": number, '
                '"colour"?: one of "red", "blue"}; got a number',
            ),
        ),
        (
            {"petal_length": 1},
            {"top_k": "x"},
            (400, "parameters.top_k: expected an integer; got a string"),
        ),
        ({"petal_length": 1}, {"topk": 1}, (400, "parameters.topk: unknown name; expected top_k")),
    ],
)
def test_request_that_breaks_the_type_hints_gets_400(
    instance: object, parameters: dict[str, object], response: tuple[int, object]
) -> None:
    assert respond(adapt(Hinted()), instance, **parameters) == response


class Node(TypedDict):
    children: list["Node"]


class Unresolved(TypedDict):
    picture: "NoSuchName"  # type: ignore[name-defined]  # noqa: F821


@pytest.mark.parametrize("hint", [Node, Unresolved, Annotated[int, {}], "NoSuchName"])
def test_type_hint_that_cannot_be_resolved_is_not_used(hint: object) -> None:
    task = Unhinted()

    def preprocess(instance: Any) -> Any:
        return instance

    preprocess.__annotations__["instance"] = hint
    task.preprocess = preprocess  # type: ignore[assignment, method-assign]
    assert adapt(task).schema.declared.instance == {}


EXAMPLES = [Example({"x": 1}, {"offset": 1}, 2.0), Example({"x": 2}, {}, 2.0)]


@pytest.mark.parametrize(
    ("instance", "parameters", "response"),
    [
        ({"x": 1, "y": 2}, {"offset": 2.5}, (200, 3.5)),
        ({}, {}, (400, "instances[0]: x: missing; expected a number; got an empty object")),
        (None, {}, (400, 'instances[0]: expected an object {"x": number}; got null')),
        ({"x": 1}, {"offset": "1"}, (400, "parameters.offset: expected a number; got a string")),
        ({"x": 1}, {"offset": 99}, (500, "instances[0]: postprocessing failed")),
    ],
)
def test_failure_on_a_request_unlike_the_examples_is_a_400(
    instance: object, parameters: dict[str, object], response: tuple[int, object]
) -> None:
    assert respond(adapt(Unhinted(), "cpu", EXAMPLES), instance, **parameters) == response


def test_failure_without_hints_or_examples_is_a_500() -> None:
    assert respond(adapt(Unhinted()), None) == (500, "instances[0]: preprocessing failed")


def test_schemas_of_hints_are_completed_by_examples_and_labels() -> None:
    examples = [Example({"petal_length": 1}, {}, {"long": 1.0}) for _ in range(2)]
    assert adapt(Hinted(), "cpu", examples).schema.to_json() == {
        "instance": FLOWER,
        "parameters": {
            "type": "object",
            "properties": {"top_k": {"type": "integer"}},
            "additionalProperties": False,
        },
        "prediction": {"type": "object", "additionalProperties": {"type": "number"}},
        "x-labels": ["long", "short"],
    }
    assert adapt(Unhinted(), "cpu", EXAMPLES).schema.to_json() == {
        "instance": {
            "type": "object",
            "properties": {"x": {"type": "number"}},
            "required": ["x"],
        },
        "parameters": {"type": "object", "properties": {"offset": {"type": "number"}}},
        "prediction": {"type": "number"},
    }


@pytest.mark.parametrize(
    ("hint", "expected"),
    [(bytes | dict[str, int], "object"), (bytes | None | str, "string"), (bytes, None)],
)
def test_bytes_of_a_raw_body_are_not_in_the_schema_of_json(hint: Any, expected: str | None) -> None:
    assert schema_of_hint(hint).get("type") == expected
