"""A task may take and return any values; one sample's fault is that sample's alone."""

import base64
import json
import logging
import sys
from collections import OrderedDict
from dataclasses import dataclass
from typing import Any, NamedTuple

import numpy as np
import pytest
import torch
from torch import Tensor

from handler import collation
from handler.batch import predict_batch
from handler.collation import move
from handler.envelope import parse_document
from handler.splitting import OutputError, split_output
from task import JSON, BadInstance, BadParameter, pad
from task.adapter import TaskError, adapt
from tests.programs import run_program


class Plain:
    """A task that passes everything through, and records its batches."""

    def __init__(self) -> None:
        self.batches: list[Any] = []

    def preprocess(self, instance: JSON, parameters: Any) -> Any:  # noqa: ARG002  for subclasses
        return instance

    def inference(self, batch: Any) -> Any:
        self.batches.append(batch)
        return batch

    def postprocess(self, output: Any, parameters: Any) -> Any:  # noqa: ARG002  for subclasses
        return output


def respond(task: Any, *instances: Any, **parameters: Any) -> Any:
    """Return the predictions, or the code and message of the error."""
    document = {"instances": list(instances), "parameters": parameters}
    (response,) = predict_batch(adapt(task), [parse_document(document)])
    body = json.loads(response.body)
    if response.code != 200:
        return int(response.code), body["error"]["message"]
    return body["predictions"]


class Texts(Plain):
    """Two ragged tensors for each text."""

    def preprocess(self, instance: JSON, parameters: Any) -> Any:  # noqa: ARG002
        ids = torch.tensor([ord(letter) for letter in instance])
        return {"ids": ids, "mask": torch.ones(len(ids))}

    def inference(self, batch: Any) -> Any:
        super().inference(batch)
        return {"sum": (batch["ids"] * batch["mask"]).sum(1), "loss": None}

    def postprocess(self, output: Any, parameters: Any) -> Any:  # noqa: ARG002
        assert output["loss"] is None
        return output["sum"]


def test_ragged_samples_are_batched_with_equal_ones_and_nothing_is_logged(
    caplog: pytest.LogCaptureFixture,
) -> None:
    task = Texts()
    assert respond(task, "a", "bb", "c", "dd") == [97, 196, 99, 200]
    assert [batch["ids"].tolist() for batch in task.batches] == [
        [[97], [99]],
        [[98] * 2, [100] * 2],
    ]
    assert not caplog.records


def test_samples_are_padded_by_the_tasks_collate_in_one_pass() -> None:
    class Padded(Texts):
        def collate(self, samples: list[Any]) -> Any:
            return pad(samples, {"ids": 7})

    task = Padded()
    assert respond(task, "a", "bb") == [97, 196]
    (batch,) = task.batches
    assert batch["ids"].tolist() == [[97, 7], [98, 98]]
    assert batch["mask"].tolist() == [[1, 0], [1, 1]]


def test_samples_of_like_size_share_a_pass_and_keep_their_order() -> None:
    class Sized(Texts):
        def collate(self, samples: list[Any]) -> Any:
            return pad(samples)

        def size(self, sample: Any) -> float:
            return len(sample["ids"])

    task = Sized()
    texts = ["a" * length for length in (9, 1, 2, 5, 3, 4, 8)]
    assert respond(task, *texts) == [97 * len(text) for text in texts]
    assert [list(batch["mask"].sum(1)) for batch in task.batches] == [[1, 2], [3, 4, 5], [8, 9]]


def test_sample_whose_size_fails_gets_the_error_alone() -> None:
    class Sized(Plain):
        def size(self, sample: Any) -> float:
            if sample < 0:
                raise BadInstance("expected a positive number")
            return float(sample)

    assert respond(Sized(), 1.0, -1.0, 2.0) == (400, "instances[1]: expected a positive number")
    assert respond(Sized(), 1.0, -1.0, on_error="return")[0] == 1.0
    assert respond(Sized(), float("inf")) == (500, "instances[0]: size failed")


def test_large_batch_of_ragged_samples_takes_passes_of_bounded_size(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(collation, "MAX_SAMPLES_PER_PASS", 2)
    task = Texts()
    assert respond(task, *["a", "bb"] * 3) == [97, 196] * 3
    assert [len(batch["ids"]) for batch in task.batches] == [2, 1, 2, 1]


class Pair(NamedTuple):
    x: Any
    y: Any


@pytest.mark.parametrize(
    ("samples", "batch"),
    [
        ([1, 2], torch.tensor([1, 2])),
        ([1.5, 2.5], torch.tensor([1.5, 2.5], dtype=torch.float64)),
        (["a", "b"], ["a", "b"]),
        ([None, None], [None, None]),
        ([{"a": None}, {"a": None}], [{"a": None}, {"a": None}]),
        ([{"a": 1, "b": "x"}, {"a": 2, "b": "y"}], {"a": torch.tensor([1, 2]), "b": ["x", "y"]}),
        ([np.zeros(2), np.ones(2)], torch.tensor([[0, 0], [1, 1]], dtype=torch.float64)),
        ([np.array(["a"]), np.array(["b"])], [np.array(["a"]), np.array(["b"])]),
        ([Pair(1, "x"), Pair(2, "y")], Pair(torch.tensor([1, 2]), ("x", "y"))),
    ],
)
def test_samples_of_any_type_are_batched(samples: list[Any], batch: Any) -> None:
    class Given(Plain):
        def preprocess(self, instance: JSON, parameters: Any) -> Any:  # noqa: ARG002
            return samples[instance]

        def inference(self, batch: Any) -> Any:
            super().inference(batch)
            return [0, 1]

    task = Given()
    assert respond(task, 0, 1) == [0, 1]
    assert repr(task.batches) == repr([batch])


def test_batch_is_moved_to_the_device() -> None:
    batch = {"a": torch.zeros(2), "b": (torch.zeros(2), "x"), "c": [Pair(torch.zeros(1), None)]}
    moved = move(batch, "meta")
    assert moved["a"].device.type == moved["b"][0].device.type == "meta"
    assert moved["c"][0].x.device.type == "meta"
    assert (moved["b"][1], moved["c"][0].y) == ("x", None)


@dataclass
class ModelOutput(OrderedDict):  # type: ignore[type-arg]
    """Like that of transformers: a dict whose values are also attributes."""

    logits: Any = None
    hidden: Any = None

    def __post_init__(self) -> None:
        self.update({key: value for key, value in vars(self).items() if value is not None})


ROWS = torch.tensor([[1.0], [2.0]])


@pytest.mark.parametrize(
    ("output", "outputs"),
    [
        (ROWS, [ROWS[0], ROWS[1]]),
        (ROWS.bfloat16(), [ROWS[0].bfloat16(), ROWS[1].bfloat16()]),
        (ROWS.numpy(), [ROWS[0].numpy(), ROWS[1].numpy()]),
        ((ROWS, ["a", "b"]), [(ROWS[0], "a"), (ROWS[1], "b")]),
        (Pair(ROWS, ROWS), [Pair(ROWS[0], ROWS[0]), Pair(ROWS[1], ROWS[1])]),
        ({"x": ROWS, "y": None}, [{"x": ROWS[0], "y": None}, {"x": ROWS[1], "y": None}]),
        ([{"boxes": ROWS}, {"boxes": ROWS[:0]}], [{"boxes": ROWS}, {"boxes": ROWS[:0]}]),
        (
            ModelOutput(ROWS, (ROWS, ROWS)),
            [ModelOutput(ROWS[0], (ROWS[0],) * 2), ModelOutput(ROWS[1], (ROWS[1],) * 2)],
        ),
    ],
)
def test_output_is_split_into_one_value_per_sample(output: Any, outputs: list[Any]) -> None:
    split = split_output(output, 2)
    assert repr(split) == repr(outputs)
    assert [type(each) for each in split] == [type(each) for each in outputs]


@pytest.mark.parametrize(
    ("output", "message"),
    [
        (ROWS, "returned 2 values (Tensor of shape (2, 1)) for 3 samples"),
        (
            ROWS[0, 0],
            "returned a single value (Tensor of shape ()) for 3 samples; expected a tensor",
        ),
        (np.float32(1), "returned a single value (float32 of shape ()) for 3 samples"),
        ({"x": [1]}, "returned 1 values (list at ['x']) for 3 samples"),
        ((["a"] * 3, [1]), "returned 1 values (list at [1]) for 3 samples"),
        ([ROWS], "returned 1 values (list) for 3 samples; return several outputs as a tuple"),
        ({"x": {}}, "returned 0 values (dict at ['x']) for 3 samples"),
        ("abc", "returned str for 3 samples; expected a tensor or array with N first, a list of N"),
        ({"cache": object()}, "returned object at ['cache'] for 3 samples; expected"),
        (None, "returned NoneType for 3 samples"),
    ],
)
def test_output_of_another_number_of_samples_is_an_error_with_both_numbers(
    output: Any, message: str
) -> None:
    with pytest.raises(OutputError) as raised:
        split_output(output, 3)
    assert f"inference {message}" in str(raised.value)


def test_output_may_be_changed_in_place() -> None:
    class InPlace(Plain):
        def postprocess(self, output: Any, parameters: Any) -> Any:  # noqa: ARG002
            return output.add_(1)

    assert respond(InPlace(), 1) == [2]


def test_every_step_gets_the_parameters_of_its_request() -> None:
    class Scaled(Plain):
        def preprocess(self, instance: JSON, parameters: Any) -> Any:
            return torch.tensor(instance * parameters["scale"])

        def postprocess(self, output: Any, parameters: Any) -> Any:
            return [output, parameters["scale"]]

    requests = [
        parse_document({"instances": [2], "parameters": {"scale": scale}}) for scale in (10, 100)
    ]
    bodies = [response.body for response in predict_batch(adapt(Scaled()), requests)]
    assert bodies == ['{"predictions":[[20,10]]}', '{"predictions":[[200,100]]}']


@pytest.mark.parametrize(
    ("prediction", "expected"),
    [
        (torch.tensor([1.5, 2.5], dtype=torch.bfloat16, requires_grad=True), [1.5, 2.5]),
        (
            {"n": np.int64(3), "x": np.float32(0.5), "b": np.bool_(False)},
            {"n": 3, "x": 0.5, "b": 0},
        ),
        ({"a": np.ones((1, 2)), "t": (1, "é")}, {"a": [[1, 1]], "t": [1, "é"]}),
        ({"png": b"\x00\xff"}, {"png": {"b64": base64.b64encode(b"\x00\xff").decode()}}),
        ({1: "a", None: [None, True]}, {"1": "a", "null": [None, True]}),
    ],
)
def test_tensors_arrays_and_bytes_are_written_as_json(prediction: Any, expected: Any) -> None:
    class Given(Plain):
        def postprocess(self, *_: object) -> Any:
            return prediction

    assert respond(Given(), 1) == [expected]


@pytest.mark.parametrize(
    ("prediction", "message"),
    [
        ({"scores": [0, 1, 2, float("nan")]}, "scores[3] is NaN, which JSON cannot represent"),
        ({"x": torch.tensor([[1, torch.inf]])}, "x[0][1] is Infinity, which JSON cannot represent"),
        ({"x": {1, 2}}, "x is of type set; expected None, bool, int"),
        ({"x": {(1, 2): 3}}, "x has the key (1, 2), a tuple; expected a string"),
        (1j, "the prediction is of type complex"),
    ],
)
def test_prediction_that_is_not_json_fails_its_instance_alone(
    prediction: Any, message: str
) -> None:
    class Given(Plain):
        def postprocess(self, output: Any, *_: object) -> Any:
            return prediction if output == 2 else output

    code, text = respond(Given(), 1, 2)
    assert code == 500
    assert text.startswith(f"instances[1]: {message}")
    first, second, third = respond(Given(), 1, 2, 3, on_error="return")
    assert (first, third) == (1, 3)
    assert second["error"]["code"] == 500


class Raising(Plain):
    """A task that raises an exception in the step that the instance names."""

    def __init__(self, error: Exception) -> None:
        super().__init__()
        self.error = error

    def _raise_if(self, *found: bool) -> None:
        if any(found):
            raise self.error

    def preprocess(self, instance: JSON, parameters: Any) -> Any:  # noqa: ARG002
        self._raise_if(instance == "preprocess")
        return instance

    def inference(self, batch: Any) -> Any:
        self._raise_if("inference" in batch)
        return batch

    def postprocess(self, output: Any, parameters: Any) -> Any:  # noqa: ARG002
        self._raise_if(output == "postprocess")
        return output


STEPS = ("preprocess", "inference", "postprocess")


@pytest.mark.parametrize("step", STEPS)
def test_bad_instance_is_a_400_of_its_instance_in_every_step(step: str) -> None:
    task = Raising(BadInstance("expected another"))
    assert respond(task, "a", step, "b") == (400, "instances[1]: expected another")
    first, bad, last = respond(task, "a", step, "b", on_error="return")
    assert (first, last) == ("a", "b")
    assert bad["error"] == {
        "code": 400,
        "status": "INVALID_ARGUMENT",
        "message": "expected another",
    }


@pytest.mark.parametrize("step", STEPS)
@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("top_k: expected a number", "parameters.top_k: expected a number"),
        ("this model takes none", "parameters: this model takes none"),
        ("parameters.x: unknown", "parameters.x: unknown"),
    ],
)
def test_bad_parameter_is_a_400_of_its_request_in_every_step(
    step: str, text: str, message: str
) -> None:
    task = Raising(BadParameter(text))
    assert respond(task, "a", step, "b", on_error="return") == (400, message)
    requests = [parse_document({"instances": [instance]}) for instance in ("a", step)]
    good, bad = predict_batch(adapt(task), requests)
    assert (good.code, bad.code) == (200, 400)


@pytest.mark.parametrize(
    ("step", "name"),
    [
        ("preprocess", "preprocessing"),
        ("inference", "inference"),
        ("postprocess", "postprocessing"),
    ],
)
def test_other_exception_is_a_500_of_its_instance_and_is_logged_once(
    step: str, name: str, caplog: pytest.LogCaptureFixture
) -> None:
    task = Raising(RuntimeError("secret"))
    first, *bad = respond(task, "a", step, step, on_error="return")
    assert first == "a"
    assert [each["error"]["message"] for each in bad] == [f"{name} failed"] * 2
    assert len([record for record in caplog.records if record.exc_info]) == 1


def test_pass_that_fails_for_none_of_its_samples_alone_is_logged(
    caplog: pytest.LogCaptureFixture,
) -> None:
    class Single(Plain):
        def inference(self, batch: Any) -> Any:
            if len(batch) > 1:
                raise RuntimeError("no batches")
            return batch

    assert respond(Single(), 1, 2) == [1, 2]
    (record,) = caplog.records
    assert record.levelno == logging.ERROR
    assert "failed on a batch of 2 samples, but on none of them alone" in record.getMessage()


@pytest.mark.parametrize(
    ("name", "method", "message"),
    [
        ("inference", None, r"without the method inference\(batch\)"),
        ("preprocess", lambda: 1, r"preprocess has the signature preprocess\(\); expected prepro"),
        (
            "preprocess",
            lambda a, b, c: a + b + c,
            r"signature preprocess\(a, b, c\); expected preprocess",
        ),
        (
            "postprocess",
            lambda a, *, b: a + b,
            r"signature postprocess\(a, \*, b\); expected postpro",
        ),
        ("stream", lambda: 1, r"stream\(\); expected stream\(sample, parameters\)"),
        ("explain", lambda: 1, r"explain\(\); expected explain\(sample, parameters\)"),
    ],
)
def test_task_with_another_signature_is_an_error_that_shows_both(
    name: str, method: Any, message: str
) -> None:
    task = Plain()
    setattr(task, name, method)
    with pytest.raises(TaskError, match=message):
        adapt(task)


@pytest.mark.parametrize(
    "method",
    [
        lambda a: a,
        lambda a, b=1: a + 0 * b,
        lambda *a: a[0],
        lambda a, parameters=None: a if parameters is not None else None,
    ],
)
def test_argument_for_parameters_may_be_left_out(method: Any) -> None:
    task = Plain()
    task.preprocess = method  # type: ignore[method-assign]
    task.postprocess = method  # type: ignore[method-assign]
    assert respond(task, 5) == [5]


def test_integers_padded_beside_floats_leave_the_floats_as_they_are() -> None:
    batch = pad([torch.tensor([1, 2]), torch.tensor([2.5])])
    assert batch.tolist() == [[1, 2], [2.5, 0]]


def test_tensors_of_different_shapes_are_padded_at_their_ends() -> None:
    a, b = torch.ones(1, 2), torch.ones(2, 1)
    assert pad([a, b], -1).tolist() == [[[1, 1], [-1, -1]], [[1, -1], [1, -1]]]
    batch = pad([Pair((torch.ones(1), 1.0), "x"), Pair((torch.ones(2), 2.0), "y")])
    assert isinstance(batch, Pair)
    assert batch.x[0].tolist() == [[1, 0], [1, 1]]
    assert batch.x[1].tolist() == [1, 2]
    assert batch.y == ["x", "y"]
    assert pad([torch.tensor([True]), torch.tensor([True] * 2)]).tolist() == [
        [True, False],
        [True] * 2,
    ]
    with pytest.raises(ValueError, match=r"the tensors have \[0, 1\] dimensions"):
        pad([torch.tensor(1), torch.tensor([1])])


def test_stream_of_a_task_gets_the_sample_and_the_parameters() -> None:
    class Streaming(Plain):
        def stream(self, sample: Tensor, parameters: Any) -> Any:
            yield from range(int(sample), parameters["end"])

    assert adapt(Plain()).stream is None
    stream = adapt(Streaming()).stream
    assert stream is not None
    assert list(stream(torch.tensor(2), {"end": 5})) == [2, 3, 4]


def test_interface_and_requests_file_are_read_without_importing_torch() -> None:
    program = "import sys, task.adapter, task.requests_file; print('torch' in sys.modules)"
    assert run_program([sys.executable, "-c", program]).out == "False\n"
