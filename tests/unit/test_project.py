"""Which model MODEL selects, the names that follow from it, and the programs that make its weights."""

import dataclasses
import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from project.model_folder import Model, ModelFolderError, find_model
from project.weights import WeightsError, are_missing, make_weights
from tests.images import ROOT
from tests.programs import run_program


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Change to a folder with three models in model/, one elsewhere, and an archive."""
    for name in ("model/digits", "model/flowers", "elsewhere/My Model_2", "model/no-entry"):
        (tmp_path / name).mkdir(parents=True)
        if name != "model/no-entry":
            (tmp_path / name / "model.py").touch()
    for name in ("ready.mar", "store/Old_2.0.tar.gz", "store/two.zip", "flow.war", "weights.pt"):
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).touch()
    # A stock archive whose model file has the name of this project's.
    for name in ("elsewhere/unpacked/MAR-INF/MANIFEST.json", "elsewhere/unpacked/model.py"):
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).touch()
    for name in ("hub/config.json", "hub/model.safetensors"):
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).touch()
    monkeypatch.chdir(tmp_path)
    monkeypatch.delenv("MODEL_OUTPUT", raising=False)
    return tmp_path


@pytest.mark.usefixtures("folder")
@pytest.mark.parametrize(
    ("value", "path", "name"),
    [
        (None, "model/digits", "digits"),
        ("", "model/digits", "digits"),
        ("flowers", "model/flowers", "flowers"),
        ("model/flowers", "model/flowers", "flowers"),
        ("model/flowers/", "model/flowers", "flowers"),
        ("elsewhere/My Model_2", "elsewhere/My Model_2", "my-model-2"),
        ("./ready.mar", "ready.mar", "ready"),
        ("store/Old_2.0.tar.gz", "store/Old_2.0.tar.gz", "old-2-0"),
        ("store/two.zip", "store/two.zip", "two"),
        ("elsewhere/unpacked", "elsewhere/unpacked", "unpacked"),
    ],
)
def test_model_is_a_name_a_folder_or_an_archive(value: str | None, path: str, name: str) -> None:
    model = find_model(value)
    assert (model.path, model.name) == (Path(path), name)
    assert str(model.archive) == f"build/{name}/{name}.mar"
    assert model.predict_route == f"/predictions/{name}"
    is_archive = model.path.suffix in (".mar", ".gz", ".zip") or name == "unpacked"
    assert model.is_archive == is_archive


def test_folder_of_archives_is_a_model_with_several(folder: Path) -> None:
    (folder / "several").mkdir()
    for name in ("b.mar", "a_1.mar"):
        (folder / "several" / name).touch()
    model = find_model("several")
    assert model.name == "several"
    names = ("a_1.mar", "b.mar")
    assert model.folder_archives == [Path("several", name) for name in names]
    assert model.archives == [Path("build/several", name) for name in names]
    assert find_model("flowers").archives == [find_model("flowers").archive]


@pytest.mark.usefixtures("folder")
def test_selection_of_a_model_can_be_pasted_into_a_shell() -> None:
    assert find_model("flowers").selection == "MODEL=flowers"
    assert find_model("elsewhere/My Model_2").selection == "MODEL='elsewhere/My Model_2'"


def test_only_model_is_the_default_whatever_its_name(folder: Path) -> None:
    (folder / "model" / "digits" / "model.py").unlink()
    assert find_model().name == "flowers"


def test_without_a_default_the_models_are_named(folder: Path) -> None:
    (folder / "model" / "digits").rename(folder / "model" / "letters")
    with pytest.raises(ModelFolderError, match="MODEL is not set: the models are flowers, letters"):
        find_model()


def test_without_any_model_the_command_that_writes_one_is_named(folder: Path) -> None:
    shutil.rmtree(folder / "model")
    for value in (None, "digits"):
        with pytest.raises(
            ModelFolderError,
            match="there is no model in model/: make new NAME=flowers FROM=tabular",
        ):
            find_model(value)


@pytest.mark.parametrize(
    ("value", "reason"),
    [
        ("nothing", "MODEL=nothing: no folder nothing; the models are digits, flowers; set MODEL"),
        ("model/no-entry", "model/no-entry has no model.py"),
        ("none.mar", "MODEL=none.mar: the archive does not exist"),
        ("none.tar.gz", "MODEL=none.tar.gz: the archive does not exist"),
        ("store", r"a folder with an archive in it; give the archive: store/Old_2\.0\.tar\.gz"),
        ("elsewhere", "a folder with an archive in it; give the archive: elsewhere/unpacked"),
        ("flow.war", r"a workflow archive, which is not served; give the \.mar of each"),
        ("weights.pt", r"a model without an archive; make new NAME=my-model FROM=weights\.pt"),
        ("hub", "a Hugging Face folder; make new NAME=my-model FROM=hub writes a folder"),
        ("gs://bucket/folder", "a bucket; set STORAGE to it, in place of MODEL"),
        ("model/digits/model.py", r"expected a folder with a model\.py, or an archive \(\.mar, "),
        ("elsewhere/2x", "2x: the name of a model has 2 to 40 letters, digits and hyphens"),
        ("elsewhere/Deploy", "Deploy: build/deploy has other files; rename it"),
    ],
)
def test_model_that_does_not_exist_or_has_a_bad_name_is_refused(
    folder: Path, value: str, reason: str
) -> None:
    for name in ("2x", "Deploy"):
        (folder / "elsewhere" / name).mkdir()
        (folder / "elsewhere" / name / "model.py").touch()
    with pytest.raises(ModelFolderError, match=reason):
        find_model(value)


def test_properties_are_printed_for_make(folder: Path) -> None:
    command = [sys.executable, "-m", "project", "archive"]
    for value, expected in (("flowers", "build/flowers/flowers.mar"), ("ready.mar", "build/ready")):
        done = run_program(command, {"MODEL": value, "PYTHONPATH": str(ROOT)}, cwd=folder)
        assert done.out.startswith(expected), done.err
    done = run_program(command, {"MODEL": "x", "PYTHONPATH": str(ROOT)}, cwd=folder)
    assert done.code == 1
    assert done.err.startswith("project: MODEL=x: no folder x; ")
    assert done.err.count("\n") == 1


TRAIN = """
import argparse, pathlib
parser = argparse.ArgumentParser()
parser.add_argument("--out", type=pathlib.Path, required=True)
parser.add_argument("--data", default="none")
args = parser.parse_args()
if args.data == "bad":
    raise SystemExit("no such data")
import beside
from project.model_folder import find_model  # programs may use this project
(args.out / "weights.pt").write_text(args.data)
"""


def make_model(folder: Path, program: str) -> Model:
    path = folder / "model" / "flowers"
    (path / program).write_text(TRAIN)
    (path / "beside.py").touch()
    return Model(path=path, name="flowers", output=folder / "build")


@pytest.mark.parametrize("program", ["train.py", "fetch.py"])
def test_weights_are_made_if_there_are_none_or_on_request(
    folder: Path, program: str, capfd: pytest.CaptureFixture[str]
) -> None:
    model = make_model(folder, program)
    assert are_missing(model)
    make_weights(model, [])
    assert (model.weights / "weights.pt").read_text() == "none"
    assert not are_missing(model)
    make_weights(model, ["--data", "mine"])
    assert (model.weights / "weights.pt").read_text() == "mine"
    with pytest.raises(WeightsError, match="failed; the weights are as they were"):
        make_weights(model, ["--data", "bad"])
    assert (model.weights / "weights.pt").read_text() == "mine"
    assert "no such data" in capfd.readouterr().err


def test_weights_in_the_folder_are_not_made_again(folder: Path) -> None:
    model = make_model(folder, "train.py")
    (model.path / "net.safetensors").touch()
    assert not are_missing(model)


@pytest.mark.parametrize(("program", "again"), [("fetch.py", True), ("train.py", False)])
def test_changed_program_fetches_again_but_does_not_train_again(
    folder: Path, program: str, again: bool
) -> None:
    model = make_model(folder, program)
    make_weights(model, [])
    (model.path / program).write_text(f"{TRAIN}\n# another version\n")
    assert are_missing(model) == again


def test_weights_of_another_folder_with_the_same_name_are_not_used(folder: Path) -> None:
    model = make_model(folder, "train.py")
    make_weights(model, [])
    other = dataclasses.replace(model, path=folder / "elsewhere" / "flowers")
    other.path.mkdir()
    with pytest.raises(
        WeightsError, match=r"has the weights of .*model/flowers: rename one of the"
    ):
        are_missing(other)


def test_archive_of_a_model_with_trained_weights_is_used_as_it_is(folder: Path) -> None:
    model = make_model(folder, "train.py")
    make_weights(model, [])
    model.archive.touch()
    assert not are_missing(find_model(str(model.archive)))


@pytest.mark.usefixtures("folder")
def test_model_without_a_program_says_so() -> None:
    with pytest.raises(WeightsError, match=r"has neither train\.py nor fetch\.py"):
        make_weights(find_model("flowers"), [])


def test_ctrl_c_ends_a_training_with_one_line(folder: Path) -> None:
    (folder / "model/flowers/train.py").write_text(
        "import os, signal; os.kill(os.getppid(), signal.SIGINT)"
    )
    command = [sys.executable, "-m", "project.weights", "--model", "flowers"]
    environ = {**os.environ, "PYTHONPATH": str(ROOT)}
    done = subprocess.run(
        command, capture_output=True, text=True, timeout=60, check=False, env=environ
    )
    assert done.returncode == 130
    assert done.stderr.strip() == "interrupted"
    assert not (folder / "build/flowers/weights").exists()


def test_make_clean_keeps_trained_weights_and_the_places_of_deployments(folder: Path) -> None:
    kept = [folder / "build/flowers/weights/w.pt", folder / "build/deploy/last.toml"]
    deleted = [folder / f"build/{name}" for name in ("flowers/venv/x", "request.json", "scan/x")]
    for file in (*kept, *deleted):
        file.parent.mkdir(parents=True, exist_ok=True)
        file.touch()
    make = ["make", "--file", str(ROOT / "Makefile"), "clean"]
    environ = {name: value for name, value in os.environ.items() if not name.startswith("MAKE")}
    subprocess.run(make, cwd=folder, check=True, capture_output=True, timeout=60, env=environ)
    assert {path for path in (folder / "build").rglob("*") if path.is_file()} == set(kept)
