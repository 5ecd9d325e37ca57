"""Archives and weights of version 0.1, and weights with and without requests of their own.

version_0_1.mar is an archive that version 0.1 packed: it has a package `model`, and golden.json.
"""

import json
import shutil
import signal
import zipfile
from pathlib import Path

import pytest

from project.model_folder import Model, find_model
from serving import archive, artifact
from serving.artifact import Artifact
from serving.errors import ArchiveError
from serving.torchserve import find_free_port
from storage.files import Folder
from tests.http import Endpoint
from tests.images import ROOT, TOY, request_body
from tests.torchserve.conftest import LocalServer, serving
from tests.torchserve.test_archive import REQUESTS, TASK

OLD = Path(__file__).with_name("version_0_1.mar")


@pytest.fixture(scope="module")
def new_archive(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Pack a model of now whose weights have the names of the old one's."""
    folder = tmp_path_factory.mktemp("new") / "vowels"
    folder.mkdir()
    (folder / "model.py").write_text(TASK)
    (folder / "vowels.txt").write_text("aeiou")
    (folder / "requests.json").write_text(json.dumps(REQUESTS))
    model = Model(path=folder, name="vowels", output=folder.parent / "build")
    archive.build(model)
    return model.archive


def fetch(folder: Path, baked: Path) -> Artifact:
    """Combine the files of `folder`/weights with an archive."""
    return artifact.fetch(Folder(folder / "weights"), baked, folder / "store")


def write_weights(folder: Path, **files: str) -> None:
    (folder / "weights").mkdir()
    for name, text in files.items():
        (folder / "weights" / name.replace("_", ".")).write_text(text)


def test_old_archive_is_packed_under_its_new_name_and_served(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    shutil.copy(OLD, tmp_path / "Old_One.mar")
    monkeypatch.chdir(tmp_path)
    model = find_model("Old_One.mar")
    assert archive.build(model)
    assert not archive.build(model)
    assert json.loads(model.request.read_text()) == {"instances": ["hello"]}
    assert json.loads(model.requests.read_text()) == [{"instance": "hello"}]
    with serving(model.archive.resolve()) as endpoint:
        assert endpoint.url.endswith("/predictions/old-one")
        answer = endpoint.post(request_body("queue", "sky"))
        bad = endpoint.post(request_body("queue", 3))
    assert json.loads(answer.body)["predictions"] == [{"vowels": 4}, {"vowels": 0}]
    assert "instances[1]: expected a text" in bad.body


def test_built_archive_may_be_its_own_source(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    shutil.copy(OLD, tmp_path / "vowels.mar")
    monkeypatch.chdir(tmp_path)
    archive.build(find_model("vowels.mar"))
    archive.build(find_model("build/vowels/vowels.mar"))
    assert zipfile.is_zipfile("build/vowels/vowels.mar")


def test_old_archive_in_a_relative_folder_is_served(tmp_path: Path) -> None:
    (tmp_path / "my models").mkdir()
    shutil.copy(OLD, tmp_path / "my models")
    port = find_free_port()
    arguments = ("--port", str(port), "--layout", "1x1", "--storage", "my models")
    served = LocalServer(*arguments, folder=tmp_path, PYTHONPATH=str(ROOT), MODEL=str(TOY))
    try:
        served.read_until("Press Ctrl-C to stop.")
        url = f"http://127.0.0.1:{port}/predictions/model"
        assert url in served.output
        answer = Endpoint(url).post(request_body("queue"))
    finally:
        served.stop(signal.SIGINT)
    assert json.loads(answer.body)["predictions"] == [{"vowels": 4}]


@pytest.mark.parametrize("is_old", [True, False], ids=["an old archive", "a new archive"])
def test_old_weights_are_checked_by_their_golden_json(
    tmp_path: Path, new_archive: Path, is_old: bool
) -> None:
    golden = {"instance": "syzygy", "expected": {"vowels": 3}}
    write_weights(tmp_path, vowels_txt="y", golden_json=json.dumps(golden))
    served = fetch(tmp_path, OLD if is_old else new_archive)
    assert served.golden_request is not None
    assert json.loads(served.golden_request) == {"instances": ["syzygy"]}
    shutil.rmtree(tmp_path / "store")
    (tmp_path / "weights" / "vowels.txt").write_text("z")
    with pytest.raises(ArchiveError, match=r"fails its requests: .*expected 3, got 1"):
        fetch(tmp_path, OLD if is_old else new_archive)


def test_weights_are_checked_by_their_own_requests(tmp_path: Path, new_archive: Path) -> None:
    rows = [{"instance": "by", "expected": {"vowels": 1}}, {"instance": "yy"}]
    write_weights(tmp_path, vowels_txt="y", requests_json=json.dumps(rows))
    served = fetch(tmp_path, new_archive)
    assert served.golden_request is not None
    assert json.loads(served.golden_request) == {"instances": ["by"]}


def test_weights_that_fail_the_requests_of_the_archive_need_their_own(
    tmp_path: Path, new_archive: Path
) -> None:
    write_weights(tmp_path, vowels_txt="y")
    hint = "expected 2, got 0.*: put the requests.json of the weights beside them"
    with pytest.raises(ArchiveError, match=hint):
        fetch(tmp_path, new_archive)


@pytest.mark.parametrize(
    ("text", "reason"),
    [("[", "requests.json: Expecting value"), ('[{"instance": 1}]', "expected 2 requests or more")],
)
def test_broken_requests_of_weights_are_one_sentence(
    tmp_path: Path, new_archive: Path, text: str, reason: str
) -> None:
    write_weights(tmp_path, vowels_txt="y", requests_json=text)
    with pytest.raises(ArchiveError, match=reason) as caught:
        fetch(tmp_path, new_archive)
    assert "\n" not in str(caught.value)
