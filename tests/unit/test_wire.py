"""The wire contract, in the core alone."""

from functools import partial
from pathlib import Path

import pytest
import torch

from handler import batch, envelope
from model.task import load
from task import Task
from tests import cases, images


@pytest.fixture(scope="module")
def task() -> Task:
    return load(images.MODEL, torch.device("cpu"))


@pytest.mark.parametrize("case", cases.CASES, ids=lambda case: case.name)
def test_the_core_keeps_the_wire_contract(task: Task, case: cases.Case) -> None:
    response = batch.predict_batch(task, [partial(envelope.parse_body, case.body)])[0]
    cases.check_answer(case, response.code, response.body)


def test_all_requests_of_the_table_together_get_what_each_gets_alone(task: Task) -> None:
    responses = batch.predict_batch(
        task, [partial(envelope.parse_body, case.body) for case in cases.CASES]
    )
    for case, response in zip(cases.CASES, responses, strict=True):
        cases.check_answer(case, response.code, response.body)


def test_a_model_of_another_network_version_is_refused_by_name(tmp_path: Path) -> None:
    text = (images.MODEL / "model.json").read_text()
    (tmp_path / "model.json").write_text(
        text.replace('"network_version": ', '"network_version": 9')
    )
    with pytest.raises(ValueError, match="network version 91, this code is version 1"):
        load(tmp_path, torch.device("cpu"))
