"""A model is served only if its requests get the expected predictions, on every CPU."""

import json
import logging
import sys
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

from handler import golden
from handler.comparison import find_differences
from task import JSON, Golden
from task.adapter import adapt
from task.requests_file import Example
from tests.programs import run_program
from tests.unit.test_batch import Doubler


def check(task: Any, *examples: Example, each_alone: bool = False) -> list[str]:
    return golden.check(adapt(task, "cpu", examples), each_alone=each_alone)


def example(index: int, instance: JSON, expected: JSON, **parameters: JSON) -> Example:
    return Example(instance, parameters, expected, name=f"requests.json[{index}]")


def test_wrong_prediction_for_the_golden_instance_raises() -> None:
    check(Doubler())
    wrong = Doubler()
    wrong.golden = Golden(2, 5.0)
    with pytest.raises(golden.GoldenMismatchError, match=r"^golden instance: expected 5.0, got 4"):
        check(wrong)


def test_first_request_runs_alone_and_then_all_in_one_batch() -> None:
    task = Doubler()
    assert check(task, example(0, 1, 2.0), example(1, 2, 4.0), example(2, 3, 6.0)) == []
    assert task.passes == [1, 3]


def test_every_request_runs_alone_and_twice_in_one_batch_when_a_model_is_packed() -> None:
    task = Doubler()
    check(task, example(0, 1, 2.0), example(1, 2, 4.0), each_alone=True)
    assert task.passes == [1, 1, 4]


def test_error_names_the_request_and_whether_it_ran_alone() -> None:
    examples = example(0, 1, 2.0), example(1, 2, 5.0)
    message = r"^requests.json\[1\] in one batch with the others: expected 5.0, got 4.0$"
    with pytest.raises(golden.GoldenMismatchError, match=message):
        check(Doubler(), *examples)
    with pytest.raises(golden.GoldenMismatchError, match=r"^requests.json\[1\]: expected 5.0"):
        check(Doubler(), *examples, each_alone=True)


def test_each_request_has_its_own_parameters_and_tolerance() -> None:
    class Scaled(Doubler):
        def postprocess(self, row: Tensor, parameters: dict[str, JSON]) -> Any:
            return row.item() * parameters.get("scale", 1)

    check(Scaled(), example(0, 1, 20.0, scale=10), Example(1, {}, 2.1, 0.1))
    with pytest.raises(golden.GoldenMismatchError):
        check(Scaled(), example(0, 1, 20.0, scale=10), Example(1, {}, 2.1, 0.01))


@pytest.mark.parametrize("expected", [{}, None])
def test_model_that_cannot_predict_fails_even_if_nothing_is_expected(expected: JSON) -> None:
    class Broken(Doubler):
        golden = Golden(2, expected)

        def inference(self, *_: object) -> Tensor:
            raise RuntimeError("no such\nfile")

    message = r"no prediction: instances\[0\]: inference failed: RuntimeError: no such file$"
    with pytest.raises(golden.GoldenMismatchError, match=message):
        check(Broken())


def test_request_without_expected_is_reported(caplog: pytest.LogCaptureFixture) -> None:
    examples = example(0, 1, 2.0), example(1, 2, {})
    assert check(Doubler(), *examples) == ["requests.json[1]"]
    (record,) = caplog.records
    assert record.levelno == logging.WARNING
    assert record.getMessage() == "without `expected`, so not compared: requests.json[1]"


def test_whole_predictions_complete_the_schema() -> None:
    class Classifier(Doubler):
        labels = ("x", "y")

        def postprocess(self, row: Tensor, parameters: dict[str, JSON]) -> Any:  # noqa: ARG002
            return {"label": "x", "scores": {"x": row.item()}}

    task = adapt(Classifier(), "cpu", [example(0, 1, {"label": "x"}), example(1, 2, None)])
    golden.check(task)
    assert task.schema.prediction == {
        "type": "object",
        "properties": {
            "label": {"type": "string"},
            "scores": {"type": "object", "additionalProperties": {"type": "number"}},
        },
        "required": ["label", "scores"],
    }


def test_model_without_requests_is_not_served() -> None:
    task = Doubler()
    del Doubler.golden
    try:
        with pytest.raises(golden.GoldenMismatchError, match=r"the model has no requests.json"):
            check(task)
    finally:
        Doubler.golden = Golden(2, 4.0)


def test_model_that_loses_count_of_a_batch_fails_with_both_numbers() -> None:
    class Merging(Doubler):
        def inference(self, batch: Tensor) -> Tensor:
            return (batch * 2).max(0, keepdim=True).values

    message = r"OutputError: inference returned 1 values \(Tensor of shape \(1, 1\)\) for 2 samples"
    with pytest.raises(golden.GoldenMismatchError, match=message):
        check(Merging(), example(0, 1, 2.0), example(1, 1, 2.0))


def test_error_lists_three_of_many_differences() -> None:
    class Embedding(Doubler):
        golden = Golden(2, [float(i) for i in range(384)])

        def postprocess(self, *_: object) -> JSON:
            return [2.0 * i for i in range(384)]

    message = r"\[383\]: expected 383\.0, got 766\.0; \[382\].*; \[381\].*; and 380 more$"
    with pytest.raises(golden.GoldenMismatchError, match=message):
        check(Embedding())


@pytest.mark.parametrize(
    ("prediction", "expected", "differences"),
    [
        ([0.1, 1.0], [0.1001, 1.0005], []),
        ([0.0004, 1.0], [0.0, 1.0], []),  # small beside the largest float
        ([0.002, 1.0], [0.0, 1.0], ["[0]: expected 0.0, got 0.002"]),
        (0.000009, 0.0, []),
        (0.00002, 0.0, ["expected 0.0, got 2e-05"]),
        ({"x": 3.004}, {"x": 3.0}, ["x: expected 3.0, got 3.004"]),
        ({"x": 1001}, {"x": 1000}, ["x: expected 1000, got 1001"]),
        ({"x": 3}, {"x": 3.0}, []),
        (True, 1, ["expected 1, got True"]),
        ([1.0], [1.0, 2.0], ["expected 2 values, got 1"]),
        ({"a": [{"b": 2.0}]}, {"a": [{"b": 9.0}]}, ["a[0].b: expected 9.0, got 2.0"]),
        ([2.0, 9.0], [1.0, 1.0], ["[1]: expected 1.0, got 9.0", "[0]: expected 1.0, got 2.0"]),
        ("x" * 100, "y", [f"expected y, got {'x' * 80}..."]),
    ],
)
def test_floats_may_differ_slightly_and_the_largest_difference_comes_first(
    prediction: JSON, expected: JSON, differences: list[str]
) -> None:
    assert find_differences(prediction, expected) == differences


@pytest.mark.parametrize(
    ("prediction", "expected", "matches"),
    [
        ({"label": "3", "score": 0.9}, {"label": "3"}, True),
        ({"label": "4", "score": 0.9}, {"label": "3"}, False),
        ({"score": 0.9}, {"label": "3"}, False),
        ({"a": {"b": 1, "c": 2}}, {"a": {"b": 1}}, True),
        ("three", "three", True),
    ],
)
def test_prediction_may_have_more_keys_than_expected(
    prediction: JSON, expected: JSON, matches: bool
) -> None:
    assert (not find_differences(prediction, expected)) is matches


A, B, C, D = (("a", 0.4), ("b", 0.20001), ("c", 0.2), ("d", 0.19999))


def test_other_values_at_the_end_of_a_ranking_are_differences() -> None:
    expected = [{"label": "cat", "score": 0.5, "box": [1, 2]}]
    assert find_differences([{"label": "cat", "score": 0.5, "box": [1, 9]}], expected)
    columns = {"weights": [0.5, 0.2], "embedding": [0.1, 0.2]}
    assert find_differences(columns | {"embedding": [0.1, 0.9]}, columns)
    assert find_differences([["cat", 0.5, 0.1]], [["cat", 0.5, 0.2]])


def as_objects(*pairs: tuple[str, float]) -> list[JSON]:
    return [{"label": label, "score": score, "box": [ord(label)]} for label, score in pairs]


def as_lists(*pairs: tuple[str, float]) -> list[JSON]:
    return [list(pair) for pair in pairs]


def as_columns(*pairs: tuple[str, float]) -> JSON:
    return {"labels": [label for label, _ in pairs], "scores": [score for _, score in pairs]}


@pytest.mark.parametrize("form", [as_objects, as_lists, as_columns])
@pytest.mark.parametrize(
    ("prediction", "expected", "matches"),
    [
        ((A, B, C), (A, C, B), True),  # b and c have nearly equal scores
        ((A, C, D), (A, C, B), True),  # so have b and d, at the end of a top 3
        ((A, B, C), (B, A, C), False),
        ((B, A, C), (A, B, C), False),
        ((A, ("x", 0.1), C), (A, B, C), False),
        ((("x", 0.4), B, C), (A, B, C), False),
        ((A, B, B), (A, B, C), True),  # no list has a label twice; not worth a rule
        ((("x", 0.99), ("y", 0.01)), (("z", 0.99), ("y", 0.01)), False),
        ((("x", 0.99),), (("z", 0.99),), False),  # two classes cannot both have 0.99
    ],
)
def test_ranking_of_near_ties_may_differ(
    form: Any, prediction: Any, expected: Any, matches: bool
) -> None:
    assert (not find_differences(form(*prediction), form(*expected))) is matches


@pytest.mark.parametrize(
    ("prediction", "expected", "matches"),
    [
        ([A, C, B], [A, B, C], True),
        ([A, B, D], [A, B, C], True),
        ([A, B, ("x", 0.1)], [A, B, C], False),
        ([("x", 0.4), B, C], [A, B, C], False),
        ([("x", 0.99)], [("y", 0.99)], False),
        ([A, B, C, D], [A, B], True),
    ],
)
def test_last_key_of_a_top_k_map_may_be_another_of_the_same_score(
    prediction: Any, expected: Any, matches: bool
) -> None:
    assert (not find_differences(dict(prediction), dict(expected))) is matches


@pytest.mark.parametrize(
    ("label", "scores", "matches"),
    [
        ("b", {"a": 0.5, "b": 0.49999}, True),
        ("b", {"a": 0.5, "b": 0.4}, False),
        ("x", {"a": 0.5, "b": 0.49999}, False),
        ("b", {"a": "x", "b": "y"}, False),
    ],
)
def test_label_may_be_another_of_the_same_score(label: str, scores: JSON, matches: bool) -> None:
    expected = {"label": "a", "score": 0.5}
    prediction = {"label": label, "score": 0.5, "scores": scores}
    assert (not find_differences(prediction, expected)) is matches


EMBEDDING = """
import torch

def load(folder, device):
    return Embedding(getattr(torch, (folder / "dtype").read_text()))

class Embedding:
    def __init__(self, dtype):
        torch.manual_seed(0)
        layers = [torch.nn.Linear(384, 384) for _ in range(12)]
        parts = [part for layer in layers for part in (layer, torch.nn.GELU())]
        self.network = torch.nn.Sequential(*parts).to(dtype)
        self.dtype = dtype

    def preprocess(self, instance):
        return torch.linspace(0, instance, 384, dtype=self.dtype)

    def inference(self, batch):
        return torch.nn.functional.normalize(self.network(batch))

    def postprocess(self, output, parameters):
        return output
"""
PROGRAM = """
import pathlib, sys, torch
from handler import batch, envelope, golden, loading
for folder in sys.argv[1:]:
    task = loading.load_model(pathlib.Path(folder), torch.device("cpu"))
    [response] = batch.predict_batch(task, [envelope.parse_document({"instances": [1, 2]})])
    print(response.body)
    if task.examples:
        golden.check(task)
"""
CPUS = [
    {"ATEN_CPU_CAPABILITY": "default", "ONEDNN_MAX_CPU_ISA": "SSE41"},
    {"ATEN_CPU_CAPABILITY": "avx2", "ONEDNN_MAX_CPU_ISA": "AVX2"},
    {"ATEN_CPU_CAPABILITY": "avx512", "ONEDNN_MAX_CPU_ISA": "AVX512_CORE"},
    {"ATEN_CPU_CAPABILITY": "avx512", "ONEDNN_MAX_CPU_ISA": "ALL"},
]
"""The instruction sets of torch, and of oneDNN, which torch calls. torch limits both to what the CPU has."""


TOLERANCES = {"float32": 1e-3, "bfloat16": 0.05}


def test_embedding_that_was_packed_on_one_cpu_is_served_on_another(tmp_path: Path) -> None:
    folders = [tmp_path / dtype for dtype in TOLERANCES]
    for folder in folders:
        folder.mkdir()
        (folder / "model.py").write_text(EMBEDDING)
        (folder / "dtype").write_text(folder.name)
    command = [sys.executable, "-c", PROGRAM, *map(str, folders)]
    packed, *others = CPUS
    expected = run_program(command, packed, timeout_s=60).out.splitlines()
    for folder, body in zip(folders, expected, strict=True):
        requests = [
            {"instance": index, "expected": embedding, "tolerance": TOLERANCES[folder.name]}
            for index, embedding in enumerate(json.loads(body)["predictions"], 1)
        ]
        (folder / "requests.json").write_text(json.dumps(requests))
    outputs = []
    for environ in others:
        done = run_program(command, environ, timeout_s=60)
        assert done.code == 0, done.err
        outputs.append(done.out.splitlines())
    if all(bodies == expected for bodies in outputs):
        pytest.skip("needs a CPU with AVX2 or AVX-512: all instruction sets gave equal floats")


def test_bfloat16_prediction_is_json() -> None:
    class Half(Doubler):
        def postprocess(self, row: Tensor, parameters: dict[str, JSON]) -> Any:  # noqa: ARG002
            return row.to(torch.bfloat16)

    check(Half(), example(0, 1, [2.0]))
