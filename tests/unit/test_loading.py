"""A model is imported from its folder, beside which another may have modules of the same names."""

import json
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
import torch

from handler.golden import GoldenMismatchError
from handler.loading import LoadError, load_and_check, load_model, verify_archive
from task.backends import selection
from task.requests_file import RequestsFileError

CPU = torch.device("cpu")
MODEL = """
from constants import OFFSET

def load(folder, device):
    return Task()

class Task:
    labels = ["a", "b"]

    def preprocess(self, instance: float):
        return instance

    def inference(self, batch):
        return batch + OFFSET

    def postprocess(self, output, parameters):
        return output
"""


@pytest.fixture(autouse=True)
def _imports(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """Restore sys.path and the module `model` after each test."""
    monkeypatch.setattr(sys, "path", [*sys.path])
    yield
    for name in ("model", "constants"):
        sys.modules.pop(name, None)


def write_model(folder: Path, offset: int) -> Path:
    folder.mkdir()
    (folder / "model.py").write_text(MODEL)
    (folder / "constants.py").write_text(f"OFFSET = {offset}")
    requests = [{"instance": value, "expected": value + float(offset)} for value in (1, 2)]
    (folder / "requests.json").write_text(json.dumps(requests))
    return folder


def test_model_on_a_gpu_without_a_number_uses_the_first(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    used: list[torch.device] = []
    monkeypatch.setattr(torch.cuda, "set_device", used.append)
    task = load_model(write_model(tmp_path / "1", 1), torch.device("cuda"))
    assert [*used, task.device] == [torch.device("cuda", 0)] * 2


def test_two_models_with_modules_of_the_same_names_are_loaded_one_after_the_other(
    tmp_path: Path,
) -> None:
    for offset in (10, 20, 10):
        folder = tmp_path / str(offset)
        task = load_and_check(folder if folder.exists() else write_model(folder, offset), CPU)
        assert task.inference(torch.tensor([1])).tolist() == [offset + 1]
    assert sum(str(tmp_path) in path for path in sys.path) == 1


def test_modules_of_a_model_that_failed_to_load_are_not_used_by_the_next(tmp_path: Path) -> None:
    broken = write_model(tmp_path / "broken", 1)
    (broken / "model.py").write_text("import constants, no_such_module")
    with pytest.raises(ModuleNotFoundError):
        load_model(broken, CPU)
    assert load_and_check(write_model(tmp_path / "m", 5), CPU).inference(1) == 6


def test_model_that_predicts_something_else_on_a_gpu_is_loaded_again_more_accurately(
    tmp_path: Path, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder, device = write_model(tmp_path / "m", 5), torch.device("cpu", 0)
    offsets = iter([7, 6, 5, 7, 7, 7])
    monkeypatch.setattr(sys, "offsets", offsets, raising=False)
    (folder / "constants.py").write_text("import sys\nOFFSET = next(sys.offsets)")
    monkeypatch.setattr(selection, "_selected", {folder})
    monkeypatch.setattr(selection, "_restrictions", {})
    assert load_and_check(folder, device).inference(1) == 6
    assert caplog.text.count("the model is loaded again, more accurate and slower: ") == 2
    with pytest.raises(GoldenMismatchError):
        load_and_check(folder, device)
    selection._restrictions.clear()
    with pytest.raises(GoldenMismatchError):
        load_and_check(folder, CPU)
    assert len(list(offsets)) == 1
    torch.backends.cudnn.allow_tf32 = True


def test_examples_of_the_folder_are_those_of_the_task(tmp_path: Path) -> None:
    task = load_model(write_model(tmp_path / "m", 5), CPU)
    assert [example.expected for example in task.examples] == [6.0, 7.0]
    assert task.labels == ["a", "b"]


def test_verification_of_an_archive_writes_its_golden_request_and_its_schema(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = write_model(tmp_path / "m", 5)
    with (folder / "model.py").open("a") as model:
        model.write('\n    accepts = ["text/plain"]\n    def stream(self, sample): yield sample\n')
        model.write("\n    def explain(self, sample): return sample\n")
    monkeypatch.chdir(folder)
    verify_archive()
    assert json.loads((folder / "golden-request.json").read_text()) == {"instances": [1]}
    assert json.loads((folder / "schema.json").read_text()) == {
        "instance": {"type": "number"},
        "parameters": {"type": "object", "properties": {}},
        "prediction": {"type": "number"},
        "x-labels": ["a", "b"],
        "x-accepts": ["text/plain"],
        "x-streams": True,
        "x-explains": True,
    }


def test_folder_without_model_py_is_an_error_that_names_it(tmp_path: Path) -> None:
    with pytest.raises(
        LoadError, match=r"expected model\.py, which defines load\(folder, device\)"
    ):
        load_model(tmp_path, CPU)


def test_folder_without_load_or_with_invalid_requests_is_an_error(tmp_path: Path) -> None:
    folder = write_model(tmp_path / "m", 5)
    (folder / "model.py").write_text("")
    with pytest.raises(LoadError, match=r"model\.py: expected a function load\(folder, device\)"):
        load_model(folder, CPU)
    (folder / "requests.json").write_text("[]")
    with pytest.raises(RequestsFileError, match=r"requests\.json: expected 2 requests or more"):
        load_model(folder, CPU)
