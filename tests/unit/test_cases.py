"""The table of requests and responses, run against the handler without TorchServe."""

from pathlib import Path

import pytest
import torch

from model.task import load
from task import Task
from tests import cases, images
from tests.unit.test_batch import predict


@pytest.fixture(scope="module")
def task() -> Task:
    return load(images.MODEL, torch.device("cpu"))


@pytest.mark.parametrize("case", cases.CASES, ids=lambda case: case.name)
def test_request_gets_the_response_of_the_table(task: Task, case: cases.Case) -> None:
    (response,) = predict(task, case.body)
    cases.check_response(case, response.code, response.body)


def test_all_requests_of_the_table_in_one_batch_get_the_same_responses(task: Task) -> None:
    responses = predict(task, *(case.body for case in cases.CASES))
    for case, response in zip(cases.CASES, responses, strict=True):
        cases.check_response(case, response.code, response.body)


def test_weights_of_another_network_version_are_rejected(tmp_path: Path) -> None:
    text = (images.MODEL / "model.json").read_text()
    (tmp_path / "model.json").write_text(
        text.replace('"network_version": ', '"network_version": 9')
    )
    with pytest.raises(ValueError, match="network version 91, this code has version 1"):
        load(tmp_path, torch.device("cpu"))
