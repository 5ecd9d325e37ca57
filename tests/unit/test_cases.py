"""The table of requests and responses, run against the handler without TorchServe."""

import pytest
import torch

from handler.loading import load_model
from task.adapter import AdaptedTask
from tests import cases, images
from tests.unit.test_batch import predict


@pytest.fixture(scope="module")
def task() -> AdaptedTask:
    return load_model(images.TOY, torch.device("cpu"))


@pytest.mark.parametrize("case", cases.CASES, ids=lambda case: case.name)
def test_request_gets_the_response_of_the_table(task: AdaptedTask, case: cases.Case) -> None:
    (response,) = predict(task, case.body)
    cases.check_response(case, response.code, response.body)


def test_all_requests_of_the_table_in_one_batch_get_the_same_responses(task: AdaptedTask) -> None:
    responses = predict(task, *(case.body for case in cases.CASES))
    for case, response in zip(cases.CASES, responses, strict=True):
        cases.check_response(case, response.code, response.body)
