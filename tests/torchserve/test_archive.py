"""Archives: of any model, self-contained, and served by stock TorchServe too."""

import json
import time
import zipfile
from pathlib import Path

import pytest

from serving import archive, local
from serving.errors import ArchiveError
from tests import cases, images
from tests.stock.archive import changed
from tests.torchserve.conftest import serving, stock_torchserve

TOY = """
import torch
from task import BadInstance, Golden

def load(folder, device):
    return Vowels((folder / "vowels.txt").read_text())

class Vowels:
    golden = Golden("hello", {"vowels": 2})
    def __init__(self, vowels):
        self.vowels = vowels
    def preprocess(self, instance):
        if not isinstance(instance, str):
            raise BadInstance("expected a text")
        return torch.tensor([sum(instance.count(v) for v in self.vowels)])
    def inference(self, batch):
        return batch
    def postprocess(self, row, parameters):
        return {"vowels": int(row)}
"""


@pytest.fixture
def toy(tmp_path: Path) -> tuple[Path, Path]:
    model, weights = tmp_path / "model", tmp_path / "weights"
    model.mkdir()
    weights.mkdir()
    (model / "__init__.py").touch()
    (model / "task.py").write_text(TOY)
    (weights / "vowels.txt").write_text("aeiou")
    return model, weights


def test_text_model_is_served(toy: tuple[Path, Path], tmp_path: Path) -> None:
    with serving(archive.build("vowels", *toy, tmp_path / "store")) as endpoint:
        good = endpoint.post(images.request_body("queue", "sky", "banana"))
        bad = endpoint.post(images.request_body("queue", 3))
    assert good.code == 200
    assert json.loads(good.body)["predictions"] == [{"vowels": n} for n in (4, 0, 3)]
    assert bad.code == 400
    assert json.loads(bad.body)["error"]["message"] == "instances[1]: expected a text"


def test_model_that_fails_its_golden_instance_gets_no_archive(
    toy: tuple[Path, Path], tmp_path: Path
) -> None:
    (toy[1] / "vowels.txt").write_text("xyz")
    with pytest.raises(ArchiveError, match="golden instance: vowels: expected 2, got"):
        archive.build("vowels", *toy, tmp_path / "store")
    assert not (tmp_path / "store" / "vowels.mar").exists()


def test_archive_has_no_training_code() -> None:
    with zipfile.ZipFile(images.ARCHIVE) as contents:
        sources = {name for name in contents.namelist() if name.endswith(".py")}
    assert {"vertex_handler.py", "model/task.py"} <= sources
    assert not [name for name in sources if "train" in name]


@pytest.mark.full
def test_torchserves_own_command_serves_the_archive_with_its_defaults() -> None:
    with stock_torchserve(images.ARCHIVE, cases.CASES[0].body) as endpoint:
        for case in cases.CASES[:12]:
            answer = endpoint.post(case.body)
            cases.check_response(case, answer.code, answer.body)


@pytest.mark.full
@pytest.mark.parametrize(
    ("vowels", "reason"), [("x", "GoldenMismatchError: golden"), ("kill", "out of memory")]
)
def test_archive_that_cannot_be_loaded_is_reported_with_the_reason(
    toy: tuple[Path, Path], tmp_path: Path, vowels: str, reason: str
) -> None:
    model, weights = toy
    killed = 'if (folder / "vowels.txt").read_text() == "kill": __import__("os").abort()'
    (model / "task.py").write_text(
        TOY.replace("    return Vowels", f"    {killed}\n    return Vowels")
    )
    path = archive.build("vowels", model, weights, tmp_path / "store")
    changed(path, path, "vowels.txt", vowels.encode())
    start = time.monotonic()
    with pytest.raises(local.ServerError, match=reason), serving(path):
        pytest.fail("it serves")
    assert time.monotonic() - start < 60
