"""Trained weights in a bucket or folder, fetched by the pipeline's first step."""

import sys
from pathlib import Path

import pytest

from storage.__main__ import fetch, is_inside
from storage.files import StorageError
from tests import bucket
from tests.images import TOY
from tests.programs import run_program

FILES = [TOY / name for name in ("weights.safetensors", "labels.json", "requests.json")]


def test_folder_in_a_bucket_is_fetched(
    emulator: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("STORAGE_EMULATOR_HOST", emulator)
    uri = bucket.create_bucket(emulator, "weights", "toy", *FILES)
    assert fetch(uri, tmp_path / "model") == len(FILES)
    for file in FILES:
        assert (tmp_path / "model" / file.name).read_bytes() == file.read_bytes()
    with pytest.raises(StorageError, match="gs://weights/nothing: no objects found"):
        fetch("gs://weights/nothing", tmp_path / "nothing")


def test_local_folder_is_copied_not_linked(tmp_path: Path) -> None:
    command = [sys.executable, "-m", "storage", str(TOY), str(tmp_path / "model")]
    assert run_program(command).code == 0
    fetched = tmp_path / "model" / "weights.safetensors"
    assert fetched.read_bytes() == (TOY / "weights.safetensors").read_bytes()
    assert not fetched.is_symlink()


def test_names_that_point_out_of_the_folder_are_not_fetched() -> None:
    # The emulator cannot store such names.
    assert all(is_inside(name) for name in ("a", "a/b.c", "a..b"))
    assert not any(is_inside(name) for name in ("/a", "../a", "a/../../b"))
