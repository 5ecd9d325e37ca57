"""An explanation takes the place of a prediction; a failure affects only the instance that caused it."""

import json
import weakref
from collections import UserDict
from typing import Any, NamedTuple, TypedDict

import numpy as np
import pytest
import torch
from torch import Tensor

from handler import envelope, explanation
from handler.batch import predict_batch
from handler.errors import InvalidArgumentError
from handler.loading import load_model
from task import BadInstance, BadParameter
from task.adapter import adapt
from tests.images import ROOT


class Square:
    """Predicts the square of its instance."""

    def __init__(self) -> None:
        self.passes: list[int] = []

    def preprocess(self, instance: Any) -> Any:
        if not isinstance(instance, int):
            raise BadInstance("expected an integer")
        return torch.tensor(float(instance))

    def inference(self, batch: Tensor) -> Tensor:
        self.passes.append(len(batch))
        assert torch.is_inference_mode_enabled()
        return batch**2

    def postprocess(self, output: Tensor) -> Tensor:
        return output


class Explained(Square):
    """Explains a prediction by its gradient."""

    def __init__(self) -> None:
        super().__init__()
        self.parameters: list[dict[str, Any]] = []

    def explain(self, sample: Tensor, parameters: dict[str, Any]) -> Any:
        self.parameters.append(parameters)
        sample = sample.requires_grad_()
        if sample == 13:
            raise RuntimeError("an internal message")
        if sample == 14:
            raise BadInstance("too unlucky to explain")
        if sample == 15:
            return float("nan")
        if unknown := parameters.keys() - {"scale"}:
            raise BadParameter(f"{min(unknown)}: unknown")
        (gradient,) = torch.autograd.grad(sample**2, sample)
        return {"gradient": gradient * parameters.get("scale", 1)}


def ask(*instances: Any, **parameters: Any) -> dict[str, Any]:
    return {"instances": [*instances], "parameters": {"explain": True, **parameters}}


def respond(task: Any, *documents: dict[str, Any]) -> list[tuple[int, Any]]:
    """Return the status of each request of a batch, and its predictions or the message of its error."""
    requests = [envelope.parse_document(each) for each in documents]
    responses = predict_batch(adapt(task), requests)
    bodies = [json.loads(each.body) for each in responses]
    return [
        (each.code, body["predictions"] if each.code == 200 else body["error"]["message"])
        for each, body in zip(responses, bodies, strict=True)
    ]


def explain(task: Any, *instances: Any, **parameters: Any) -> tuple[int, Any]:
    [response] = respond(task, ask(*instances, **parameters))
    return response


def test_explanation_of_each_instance_takes_the_place_of_its_prediction() -> None:
    task = Explained()
    assert explain(task, 2, 3, scale=10) == (200, [{"gradient": 40}, {"gradient": 60}])
    assert task.passes == []
    assert task.parameters == [{"scale": 10}] * 2


def test_other_requests_of_the_batch_get_their_predictions() -> None:
    task = Explained()
    documents = [{"instances": [1, 2]}, ask(3), {"instances": [4]}, ask(5)]
    assert respond(task, *documents) == [
        (200, [1, 4]),
        (200, [{"gradient": 6}]),
        (200, [16]),
        (200, [{"gradient": 10}]),
    ]
    assert task.passes == [3]


def test_explain_false_gets_a_prediction_and_is_not_passed_on() -> None:
    request = envelope.parse_document({"instances": [1], "parameters": {"explain": False, "a": 1}})
    assert (request.is_explained, request.parameters) == (False, {"a": 1})


@pytest.mark.parametrize("value", [1, "true", [True], None])
def test_explain_that_is_no_boolean_gets_400(value: Any) -> None:
    with pytest.raises(
        InvalidArgumentError, match=r"parameters\.explain: expected true or false; got "
    ):
        envelope.parse_document({"instances": [1], "parameters": {"explain": value}})


@pytest.mark.parametrize(
    ("accept", "parameters"), [("", {"stream": True}), (envelope.EVENT_STREAM, {})]
)
def test_explanation_that_is_streamed_gets_400(accept: str, parameters: dict[str, Any]) -> None:
    with pytest.raises(InvalidArgumentError, match="explanations are not streamed"):
        envelope.parse_document(ask(1, **parameters), accept)
    assert envelope.parse_document(ask(1, stream=False), envelope.EVENT_STREAM).is_explained


def test_model_without_explain_gets_400_that_names_what_it_has_to_define() -> None:
    plain, asked = respond(Square(), {"instances": [2]}, ask(2, None, on_error="return"))
    assert plain == (200, [4])
    assert asked[0] == 400
    assert asked[1].startswith("parameters.explain: this model has no explanations")
    assert "explain(sample, parameters)" in asked[1]


@pytest.mark.parametrize(
    ("request_", "code", "message"),
    [
        (ask(1, None), 400, "instances[1]: expected an integer"),
        (ask(1, 13), 500, "instances[1]: explanation failed"),
        (ask(14, 1), 400, "instances[0]: too unlucky to explain"),
        (ask(1, scales=1), 400, "parameters.scales: unknown"),
        (ask(1, 15), 500, "instances[1]: the prediction is NaN"),
    ],
)
def test_failure_fails_its_own_request_alone(
    request_: dict[str, Any], code: int, message: str
) -> None:
    good, bad, other = respond(Explained(), {"instances": [3]}, request_, ask(4))
    assert [good, other] == [(200, [9]), (200, [{"gradient": 8}])]
    assert bad[0] == code
    assert bad[1].startswith(message)
    assert "internal message" not in bad[1]


def test_on_error_returns_the_explanations_of_the_other_instances() -> None:
    code, values = explain(Explained(), 1, None, 13, 14, 15, 6, on_error="return")
    assert code == 200
    assert [values[0], values[5]] == [{"gradient": 2}, {"gradient": 12}]
    assert [value["error"]["code"] for value in values[1:5]] == [400, 500, 400, 500]


def test_tensors_with_gradients_arrays_and_bytes_are_written_as_json() -> None:
    class Mixed(Square):
        def explain(self, sample: Tensor) -> Any:
            attributions = sample.requires_grad_() * 2
            return {"a": attributions, "b": [(np.ones((1, 2)), np.float32(3))], "c": b"x"}

    assert explain(Mixed(), 2) == (200, [{"a": 4, "b": [[[[1, 1]], 3]], "c": {"b64": "eA=="}}])


def test_graph_of_an_explanation_is_freed_before_the_next_is_computed() -> None:
    alive: weakref.WeakSet[Any] = weakref.WeakSet()

    class Double(torch.autograd.Function):
        @staticmethod
        def forward(ctx: Any, value: Tensor) -> Tensor:
            alive.add(ctx)
            return value * 2

    class Graph(Square):
        def explain(self, sample: Tensor) -> Any:
            assert not alive
            return {"doubled": [Double.apply(sample.requires_grad_())]}  # type: ignore[no-untyped-call]

    assert explain(Graph(), 1, 2) == (200, [{"doubled": [2]}, {"doubled": [4]}])


def test_explanation_that_needs_too_much_memory_gets_a_503_and_keeps_none_of_it() -> None:
    alive: list[weakref.ref[Tensor]] = []

    class Large(Square):
        def explain(self, sample: Tensor) -> Any:
            assert not any(each() is not None for each in alive)
            squares = sample.requires_grad_() ** 2
            alive.append(weakref.ref(squares))
            if sample == 13:
                raise RuntimeError("CUDA error: CUBLAS_STATUS_ALLOC_FAILED")
            return torch.autograd.grad(squares, sample)

    code, (bad, good) = explain(Large(), 13, 2, on_error="return")
    assert code == 200
    assert (bad["error"]["code"], good) == (503, [4])
    assert "explanation needs more memory than the device has free" in bad["error"]["message"]


class Pair(NamedTuple):
    first: Tensor
    second: str


@pytest.mark.parametrize(
    ("build", "get"),
    [
        (lambda tensor: tensor, lambda sample: sample),
        (lambda tensor: Pair(tensor, "a"), lambda sample: sample.first),
        (lambda tensor: [(tensor, 1)], lambda sample: sample[0][0]),
        (lambda tensor: {"x": UserDict(y=tensor)}, lambda sample: sample["x"].data["y"]),
    ],
)
def test_sample_made_in_inference_mode_has_gradients(build: Any, get: Any) -> None:
    class Careless(Explained):
        @torch.inference_mode()
        def preprocess(self, instance: Any) -> Any:
            return build(super().preprocess(instance))

        def explain(self, sample: Any, parameters: dict[str, Any]) -> Any:
            assert not torch.is_inference_mode_enabled()
            return super().explain(get(sample), parameters)

    with torch.no_grad():
        assert explain(Careless(), 2) == (200, [{"gradient": 4}])


class Parameters(TypedDict, total=False):
    scale: int


def test_parameters_are_validated_and_integers_are_converted_as_for_a_prediction() -> None:
    class Hinted(Explained):
        def preprocess(self, instance: int, parameters: Parameters) -> Any:  # type: ignore[override]  # noqa: ARG002
            return super().preprocess(instance)

    task = Hinted()
    assert explain(task, 2, scale=2.0)[0] == 200
    assert [type(each["scale"]) for each in task.parameters] == [int]
    assert explain(task, 2, scale="x") == (
        400,
        "parameters.scale: expected an integer; got a string",
    )


def test_explanations_beyond_their_share_of_the_time_get_429(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(explanation, "SHARED_EXPLAIN_TIMEOUT_S", 0.0)
    assert explain(Explained(), 1, 2)[0] == 200
    plain, long, short = respond(Explained(), {"instances": [2]}, ask(1, 2), ask(3))
    assert [plain, short] == [(200, [4]), (200, [{"gradient": 6}])]
    assert long[0] == 429
    assert long[1].startswith("instances[1]: not explained within the time limit")


@pytest.mark.parametrize("name", ["digits", "tabular"])
def test_attributions_of_an_example_sum_to_the_difference_of_the_scores(name: str) -> None:
    task = load_model(ROOT / "model" / name, torch.device("cpu"))
    assert task.explain is not None
    for example in task.examples:
        sample = task.preprocess(example.instance, {})
        baseline = task.wrapped.model[0].running_mean if name == "tabular" else sample * 0
        with torch.inference_mode():
            scores, baseline_scores = task.inference(torch.stack([sample, baseline]))
        [explained] = explain(task, example.instance)[1]
        label = task.labels.index(explained["label"])
        assert label == scores.argmax()
        attributions = explained["attributions"]
        values = attributions.values() if name == "tabular" else map(sum, attributions)
        difference = float(scores[label] - baseline_scores[label])
        assert sum(values) == pytest.approx(difference, rel=0.02)
