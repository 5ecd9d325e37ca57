"""The table of requests and responses, run against the handler without TorchServe."""

import pytest
import torch

from handler import batch, bodies
from handler.envelope import Request, Response
from handler.errors import RequestError
from handler.loading import load_model
from task.adapter import AdaptedTask
from tests import cases, images


@pytest.fixture(scope="module")
def task() -> AdaptedTask:
    return load_model(images.TOY, torch.device("cpu"))


def parse(task: AdaptedTask, case: cases.Case) -> Request | RequestError:
    try:
        headers = case.headers
        return bodies.parse_request(task, case.body, headers["Content-Type"], headers.get("Accept"))
    except RequestError as error:
        return error


def check(case: cases.Case, response: Response) -> None:
    cases.check_response(case, response.code, response.body or "".join(response.chunks or ()))
    assert response.content_type == case.response_type


@pytest.mark.parametrize("case", cases.CASES, ids=lambda case: case.name)
def test_request_gets_the_response_of_the_table(task: AdaptedTask, case: cases.Case) -> None:
    (response,) = batch.predict_batch(task, [parse(task, case)])
    check(case, response)


def test_all_requests_of_the_table_in_one_batch_get_the_same_responses(task: AdaptedTask) -> None:
    responses = batch.predict_batch(task, [parse(task, case) for case in cases.CASES])
    for case, response in zip(cases.CASES, responses, strict=True):
        check(case, response)
