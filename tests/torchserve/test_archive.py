"""Archives: of any model, self-contained, and served by stock TorchServe too."""

import dataclasses
import json
import shutil
import time
import zipfile
from pathlib import Path

import pytest

from project.model_folder import Model
from serving import archive, local
from serving.errors import ArchiveError
from serving.stock import manifest
from serving.verification import verify
from tests import cases, images
from tests.stock.archive import changed
from tests.torchserve.conftest import serving, stock_torchserve

TASK = """
import torch
from task import BadInstance

def load(folder, device):
    return Vowels((folder / "vowels.txt").read_text())

class Vowels:
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


REQUESTS = [{"instance": "hello", "expected": {"vowels": 2}}, {"instance": "sky"}]


@pytest.fixture
def vowels(tmp_path: Path) -> Model:
    folder = tmp_path / "vowels"
    folder.mkdir()
    (folder / "model.py").write_text(TASK)
    (folder / "vowels.txt").write_text("aeiou")
    (folder / "requests.json").write_text(json.dumps(REQUESTS))
    return Model(path=folder, name="vowels", output=tmp_path / "build")


def test_text_model_is_served(vowels: Model) -> None:
    archive.build(vowels)
    with serving(vowels.archive) as endpoint:
        good = endpoint.post(images.request_body("queue", "sky", "banana"))
        bad = endpoint.post(images.request_body("queue", 3))
    assert good.code == 200
    assert json.loads(good.body)["predictions"] == [{"vowels": n} for n in (4, 0, 3)]
    assert bad.code == 400
    assert json.loads(bad.body)["error"]["message"] == "instances[1]: expected a text"


def test_model_that_fails_its_requests_gets_no_archive(vowels: Model) -> None:
    (vowels.path / "vowels.txt").write_text("xyz")
    with pytest.raises(ArchiveError, match="vowels: expected 2, got"):
        archive.build(vowels)
    assert not vowels.archive.exists()


def test_archive_is_packed_again_only_when_a_file_changed(vowels: Model) -> None:
    assert archive.build(vowels)
    assert not archive.build(vowels)
    (vowels.path / "added.txt").touch()
    assert archive.build(vowels)
    (vowels.path / "added.txt").unlink()
    assert archive.build(vowels)
    with zipfile.ZipFile(vowels.archive) as contents:
        assert "added.txt" not in contents.namelist()
    assert manifest.MARK in json.loads(
        manifest.read_bytes(vowels.archive, manifest.MANIFEST) or b""
    )


def test_changed_weights_of_any_name_are_packed(vowels: Model) -> None:
    archive.build(vowels)
    (vowels.path / "vowels.txt").write_text("eioua")  # as many bytes
    assert archive.build(vowels)
    with zipfile.ZipFile(vowels.archive) as contents:
        assert contents.read("vowels.txt") == b"eioua"


def test_models_beside_each_other_keep_their_archives_and_files(
    vowels: Model, tmp_path: Path
) -> None:
    shutil.copytree(vowels.path, tmp_path / "other")
    (tmp_path / "other" / "own.bin").touch()
    other = dataclasses.replace(vowels, path=tmp_path / "other", name="other")
    assert archive.build(vowels)
    assert archive.build(other)
    assert not archive.build(vowels)
    assert not archive.build(other)
    with zipfile.ZipFile(vowels.archive) as contents:
        assert "own.bin" not in contents.namelist()


@pytest.mark.parametrize(
    ("text", "reason"),
    [
        (None, "the model has no requests.json"),
        ("[", "requests.json: Expecting value: line 1"),
        ('{"instance": 1}', "requests.json: expected an array"),
        ('[{"instance": "a"}]', "expected 2 requests or more"),
    ],
)
def test_missing_or_broken_requests_json_is_one_sentence(
    vowels: Model, text: str | None, reason: str
) -> None:
    (vowels.path / "requests.json").unlink()
    if text is not None:
        (vowels.path / "requests.json").write_text(text)
    with pytest.raises(ArchiveError, match=reason) as caught:
        archive.build(vowels)
    assert "\n" not in str(caught.value)


def test_missing_package_is_named_with_its_line_if_that_is_known(
    vowels: Model, tmp_path: Path
) -> None:
    contents = tmp_path / "contents"
    archive.collect(vowels, contents)
    (contents / "model.py").write_text("import not_installed")
    error = "No module named 'not_installed'; add"
    with pytest.raises(ArchiveError, match=f"{error} the package that provides not_installed to"):
        verify(contents)
    with pytest.raises(ArchiveError, match=rf"{error} the line x==1 to requirements\.txt of the"):
        verify(contents, known={"not_installed": "x==1"})
    (contents / "model.py").write_text("import torch.not_installed")
    with pytest.raises(ArchiveError, match=r"No module named 'torch\.not_installed'$"):
        verify(contents)


def test_trained_weights_replace_those_of_the_folder(vowels: Model) -> None:
    vowels.weights.mkdir(parents=True)
    (vowels.weights / "vowels.txt").write_text("eiouy")
    archive.build(vowels)
    with zipfile.ZipFile(vowels.archive) as contents:
        assert contents.read("vowels.txt") == b"eiouy"


def test_training_code_and_hidden_files_are_left_out_and_named(
    vowels: Model, capsys: pytest.CaptureFixture[str]
) -> None:
    for name in ("train.py", "deploy.toml", ".secret", "held-out.json"):
        (vowels.path / name).touch()
    (vowels.path / "held-out.json").write_text("[]")
    archive.build(vowels)
    assert "not packed: .secret, deploy.toml, held-out.json, train.py\n" in capsys.readouterr().out
    with zipfile.ZipFile(vowels.archive) as contents:
        assert {"vertex_handler.py", "model.py", "requests.json"} <= set(contents.namelist())
        assert not {"train.py", "deploy.toml", ".secret", "held-out.json"} & set(
            contents.namelist()
        )


def test_folders_of_weights_are_packed_or_named(
    vowels: Model, capsys: pytest.CaptureFixture[str]
) -> None:
    for folder in ("export", "tests", ".cache"):
        (vowels.weights / folder).mkdir(parents=True)
        (vowels.weights / folder / "w.bin").touch()
    archive.build(vowels)
    assert "not packed: .cache, tests\n" in capsys.readouterr().out
    with zipfile.ZipFile(vowels.archive) as contents:
        assert "export/w.bin" in contents.namelist()


@pytest.mark.full
def test_torchserves_own_command_serves_the_archive_with_its_defaults() -> None:
    with stock_torchserve(images.ARCHIVE, cases.CASES[0].body) as endpoint:
        for case in cases.CASES[:12]:
            answer = endpoint.post(case.body)
            cases.check_response(case, answer.code, answer.body)


@pytest.mark.full
@pytest.mark.parametrize(
    ("content", "reason"), [("x", "GoldenMismatchError"), ("kill", "out of memory")]
)
def test_archive_that_cannot_be_loaded_is_reported_with_the_reason(
    vowels: Model, content: str, reason: str
) -> None:
    killed = 'if (folder / "vowels.txt").read_text() == "kill": import os; os.kill(os.getpid(), 9)'
    (vowels.path / "model.py").write_text(
        TASK.replace("    return Vowels", f"    {killed}\n    return Vowels")
    )
    archive.build(vowels)
    changed(vowels.archive, vowels.archive, "vowels.txt", content.encode())
    start = time.monotonic()
    with pytest.raises(local.ServerError, match=reason), serving(vowels.archive):
        pytest.fail("it serves")
    assert time.monotonic() - start < 60
