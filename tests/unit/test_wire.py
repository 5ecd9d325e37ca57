"""The wire contract, in the core alone."""

from functools import partial
from pathlib import Path

import pytest
import torch

from handler import batch, envelope
from model.task import load
from task import Task
from tests import pictures, wire


@pytest.fixture(scope="module")
def task() -> Task:
    return load(pictures.MODEL, torch.device("cpu"))


@pytest.mark.parametrize("case", wire.CASES, ids=lambda case: case.name)
def test_the_core_keeps_the_wire_contract(task: Task, case: wire.Case) -> None:
    response = batch.answer(task, [partial(envelope.read, case.body)])[0]
    wire.check(case, response.code, response.body)


def test_all_requests_of_the_table_together_get_what_each_gets_alone(task: Task) -> None:
    responses = batch.answer(task, [partial(envelope.read, case.body) for case in wire.CASES])
    for case, response in zip(wire.CASES, responses, strict=True):
        wire.check(case, response.code, response.body)


def test_a_model_of_another_network_version_is_refused_by_name(tmp_path: Path) -> None:
    text = (pictures.MODEL / "model.json").read_text()
    (tmp_path / "model.json").write_text(
        text.replace('"network_version": ', '"network_version": 9')
    )
    with pytest.raises(ValueError, match="network version 91, this code is version 1"):
        load(tmp_path, torch.device("cpu"))
