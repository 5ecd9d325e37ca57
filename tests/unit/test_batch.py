"""Many requests, one pass; one bad instance spoils only itself."""

import json
from functools import partial
from typing import Any

import pytest
import torch
from torch import Tensor

from handler import batch, envelope, golden
from handler.envelope import Response
from task import JSON, BadInstance, BadParameter, Golden
from tests.images import request_body


class Doubler:
    """A task that doubles numbers; it fails where it is told to."""

    golden = Golden(2, 4.0)

    def __init__(self) -> None:
        self.passes: list[int] = []

    def preprocess(self, instance: JSON) -> Tensor:
        if instance == "bug":
            raise RuntimeError("a secret of the model's")
        if not isinstance(instance, int):
            raise BadInstance(f"expected an integer, got {instance!r}")
        return torch.tensor([float(instance)])

    def inference(self, batch: Tensor) -> Tensor:
        self.passes.append(len(batch))
        if (batch == 13).any():
            raise RuntimeError("thirteen brings it down")
        return batch * 2

    def postprocess(self, row: Tensor, parameters: dict[str, JSON]) -> Any:
        if "unknown" in parameters:
            raise BadParameter("unknown is not known")
        return float("nan") if row.item() == 10 else row.item()


def ask(task: Doubler, *bodies: bytes) -> list[Response]:
    return batch.predict_batch(task, [partial(envelope.parse_body, body) for body in bodies])


def predictions(response: Response) -> Any:
    assert response.code == 200, response.body
    return json.loads(response.body)["predictions"]


def error(response: Response) -> dict[str, Any]:
    found: dict[str, Any] = json.loads(response.body)["error"]
    assert found["code"] == response.code
    return found


def test_all_instances_of_all_requests_go_through_the_model_in_one_pass() -> None:
    task = Doubler()
    first, second = ask(task, request_body(1, 2), request_body(3))
    assert task.passes == [3]
    assert predictions(first) == [2, 4]
    assert predictions(second) == [6]


def test_a_pass_has_a_largest_size() -> None:
    task = Doubler()
    (response,) = ask(task, request_body(*[1] * (batch.MAX_INSTANCES_PER_PASS + 1)))
    assert task.passes == [batch.MAX_INSTANCES_PER_PASS, 1]
    assert predictions(response) == [2] * (batch.MAX_INSTANCES_PER_PASS + 1)


def test_neighbours_of_a_bad_request_get_their_answers_and_each_bad_instance_is_named() -> None:
    answers = ask(
        Doubler(), request_body(1), b"garbage", request_body("a", 1, "b"), request_body(2)
    )
    assert [answer.code for answer in answers] == [200, 400, 400, 200]
    assert predictions(answers[3]) == [4]
    assert error(answers[2])["message"] == (
        "instances[0]: expected an integer, got 'a'; instances[2]: expected an integer, got 'b'"
    )


def test_of_very_many_bad_instances_the_error_stays_short() -> None:
    (response,) = ask(Doubler(), request_body(*["x"] * 4000, 1, *["x"] * 90))
    said = error(response)["message"]
    assert "instances[19]: " in said
    assert "and 4070 more: 20-3999, 4001-4090" in said
    assert len(said) < 10_000


def test_a_request_that_takes_too_long_to_read_gets_429_unless_it_is_alone(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(batch, "SHARED_PREPROCESS_TIMEOUT_S", 0.0)
    (alone,) = ask(Doubler(), request_body(1, 2, 3))
    assert predictions(alone) == [2, 4, 6]
    greedy, modest = ask(Doubler(), request_body(1, 2, 3), request_body(4))
    assert greedy.code == 429
    assert "not reached: reading those before it took too long" in error(greedy)["message"]
    assert predictions(modest) == [8]


def test_an_error_does_not_repeat_at_length_what_the_client_sent() -> None:
    (response,) = ask(Doubler(), request_body("é" * 1_000_000))
    assert response.code == 400
    assert len(response.body) < 100_000


def test_on_error_return_puts_an_error_in_the_prediction_s_place() -> None:
    (response,) = ask(Doubler(), request_body(1, "x", 2, on_error="return"))
    one, bad, two = predictions(response)
    assert (one, two) == (2, 4)
    assert bad["error"]["status"] == "INVALID_ARGUMENT"


@pytest.mark.parametrize(
    ("body", "code", "message"),
    [
        (request_body(1, 13), 500, "instances[1]: the model failed on it"),
        (request_body("bug"), 500, "instances[0]: the model failed to read it"),
        (request_body(5), 500, "the model's answer could not be written"),  # it is NaN
        (request_body(1, unknown=1), 400, "parameters.unknown is not known"),
    ],
)
def test_what_fails_in_a_task_fails_its_request_alone_and_its_text_stays_with_us(
    body: bytes, code: int, message: str
) -> None:
    bad, good = ask(Doubler(), body, request_body(2))
    status = "INTERNAL" if code == 500 else "INVALID_ARGUMENT"
    assert error(bad) == {"code": code, "status": status, "message": message}
    assert predictions(good) == [4]


def test_a_model_that_loses_a_row_is_found_out() -> None:
    class Loser(Doubler):
        def inference(self, batch: Tensor) -> Tensor:
            return batch[:-1]

    (response,) = ask(Loser(), request_body(1, 2))
    assert error(response)["status"] == "INTERNAL"


def test_the_golden_instance_must_come_out_right() -> None:
    golden.check(Doubler())
    wrong = Doubler()
    wrong.golden = Golden(2, 5.0)
    with pytest.raises(golden.GoldenMismatchError, match=r"expected 5\.0, got 4\.0"):
        golden.check(wrong)


@pytest.mark.parametrize(
    ("got", "expected", "matches"),
    [
        ({"label": "3", "score": 0.9}, {"label": "3"}, True),
        ({"label": "4", "score": 0.9}, {"label": "3"}, False),
        ({"score": 0.9}, {"label": "3"}, False),
        ({"a": {"b": 1, "c": 2}}, {"a": {"b": 1}}, True),
        ("three", "three", True),
    ],
)
def test_of_a_golden_object_the_keys_that_matter_are_enough(
    got: JSON, expected: JSON, matches: bool
) -> None:
    assert golden.matches(got, expected) is matches
