"""The archive in a real TorchServe: requests and responses, batching, isolation of bad requests."""

import json

import pytest

from tests import cases
from tests.http import Endpoint, send_concurrently
from tests.images import labelled_images, request_body

pytestmark = pytest.mark.xdist_group("torchserve")


@pytest.mark.parametrize("case", cases.CASES, ids=lambda case: case.name)
def test_torchserve_answers_every_case_as_specified(toy: Endpoint, case: cases.Case) -> None:
    answer = toy.post(case.body, case.headers)
    cases.check_response(case, answer.code, answer.body)
    assert answer.headers["content-type"] == case.response_type


def test_invalid_request_does_not_affect_others_in_its_batch(toy: Endpoint) -> None:
    shown = labelled_images(15)
    alone = [toy.post(request_body(base64)).body for base64, _ in shown]
    invalid = b'{"instances": [{"b64": "!!"}]}'
    *good, bad = send_concurrently(
        toy, [*(request_body(base64) for base64, _ in shown), invalid], rounds=20
    )
    assert {answer.code for answer in bad} == {400}
    for answers, expected in zip(good, alone, strict=True):
        assert {answer.code for answer in answers} == {200}
        labels = {json.loads(answer.body)["predictions"][0]["label"] for answer in answers}
        assert labels == {json.loads(expected)["predictions"][0]["label"]}


@pytest.mark.parametrize("content_type", ["application/x-www-form-urlencoded", "audio/wav"])
def test_body_with_another_content_type_gets_415(toy: Endpoint, content_type: str) -> None:
    answer = toy.post(request_body(cases.INSTANCE), {"Content-Type": content_type})
    assert answer.code == 415
    error = json.loads(answer.body)["error"]
    assert error["status"] == "INVALID_ARGUMENT"
    assert f"got {content_type}" in error["message"]
