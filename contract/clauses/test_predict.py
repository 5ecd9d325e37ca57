"""POST AIP_PREDICT_ROUTE."""

import concurrent.futures
import json
from typing import Any

import pytest

from contract.clauses.conftest import Watched
from contract.http import Answer, predict

SHARED_ENDPOINT_BYTES = 1_500_000
"""The largest request that a shared public endpoint passes on."""


def predictions(answer: Answer) -> list[Any]:
    """Return the predictions of an answer; fails where it is not one."""
    assert answer.code == 200, f"{answer.code}: {answer.body[:200]!r}"
    document = answer.json()
    assert isinstance(document, dict), f"expected an object, got {document!r:.200}"
    assert "predictions" in document, f"no predictions in {document!r:.200}"
    found = document["predictions"]
    assert isinstance(found, list), f"expected an array of predictions, got {found!r:.200}"
    return found


def test_predict_on_AIP_PREDICT_ROUTE_answers_instances_with_predictions(
    ready: Watched, instances: list[Any]
) -> None:
    assert predictions(predict(ready, {"instances": instances}))


@pytest.mark.parametrize("count", [1, 3, 16])
def test_there_is_one_prediction_per_instance(
    ready: Watched, instances: list[Any], count: int
) -> None:
    sent = (instances * count)[:count]
    assert len(predictions(predict(ready, {"instances": sent}))) == count


def test_predictions_come_in_the_order_of_the_instances(
    ready: Watched, instances: list[Any]
) -> None:
    alone = [same(predictions(predict(ready, {"instances": [one]}))[0]) for one in instances]
    if len({str(one) for one in alone}) < 2:
        pytest.skip("needs two instances in --instances FILE that are answered differently")
    together = predictions(predict(ready, {"instances": instances[::-1]}))
    assert [same(one) for one in together] == alone[::-1]


def same(prediction: Any) -> Any:
    """Round the numbers of a prediction: a batch may differ from one alone in the last digits."""
    match prediction:
        case float():
            return round(prediction, 2)
        case dict():
            return {name: same(value) for name, value in prediction.items()}
        case list():
            return [same(value) for value in prediction]
    return prediction


def test_the_answer_is_json_and_says_so(ready: Watched, instances: list[Any]) -> None:
    answer = predict(ready, {"instances": instances})
    answer.json()
    assert answer.content_type.startswith("application/json"), answer.content_type


def test_parameters_may_be_there_and_empty(ready: Watched, instances: list[Any]) -> None:
    assert predictions(predict(ready, {"instances": instances, "parameters": {}}))


def test_a_request_of_1_5_MB_passes(ready: Watched, instances: list[Any]) -> None:
    body = json.dumps({"instances": instances}).encode()
    padded = body + b" " * (SHARED_ENDPOINT_BYTES - len(body))
    assert predictions(predict(ready, padded))


def test_clients_at_the_same_time_each_get_their_own_answer(
    ready: Watched, instances: list[Any]
) -> None:
    alone = [same(predictions(predict(ready, {"instances": [one]}))[0]) for one in instances]
    turns = [index % len(instances) for index in range(32)]
    with concurrent.futures.ThreadPoolExecutor(8) as pool:
        answers = list(pool.map(lambda i: predict(ready, {"instances": [instances[i]]}), turns))
    for index, answer in zip(turns, answers, strict=True):
        assert same(predictions(answer)[0]) == alone[index]


BAD = {
    "a_body_that_is_no_JSON": b"<html>",
    "a_body_without_instances": b"{}",
    "instances_that_are_no_array": b'{"instances": 3}',
    "no_instance_at_all": b'{"instances": []}',
}


@pytest.mark.parametrize("body", BAD.values(), ids=BAD.keys())
def test_a_fault_of_the_client_s_is_a_4xx(
    ready: Watched, instances: list[Any], body: bytes
) -> None:
    answer = predict(ready, body)
    assert 400 <= answer.code < 500, f"{answer.code}: {answer.body[:200]!r}"
    assert predictions(predict(ready, {"instances": instances})), "the next request is harmed"


def test_a_bad_request_does_not_harm_others_at_the_same_time(
    ready: Watched, instances: list[Any]
) -> None:
    bodies: list[Any] = [b"{}", *[{"instances": instances}] * 7] * 4
    with concurrent.futures.ThreadPoolExecutor(8) as pool:
        answers = list(pool.map(lambda body: predict(ready, body), bodies))
    codes = [answer.code for body, answer in zip(bodies, answers, strict=True) if body != b"{}"]
    assert set(codes) == {200}
