"""Trained weights that lie in a bucket, fetched by the pipeline's first step."""

import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from storage.__main__ import inside
from tests import bucket
from tests.pictures import MODEL, ROOT


@pytest.fixture(scope="module")
def emulator() -> Iterator[str]:
    """Give the URL of a storage emulator."""
    with bucket.emulated() as url:
        yield url


def fetch(emulator: str, uri: str, folder: Path) -> subprocess.CompletedProcess[str]:
    """Run python -m storage."""
    return subprocess.run(
        [sys.executable, "-m", "storage", uri, str(folder)],
        cwd=ROOT,
        capture_output=True,
        text=True,
        env={**os.environ, "STORAGE_EMULATOR_HOST": emulator},
        timeout=60,
        check=False,
    )


def test_a_buckets_folder_becomes_a_folder_here(emulator: str, tmp_path: Path) -> None:
    files = [MODEL / name for name in ("weights.safetensors", "model.json", "golden.json")]
    uri = bucket.filled(emulator, "weights", "digits", *files)
    done = fetch(emulator, uri, tmp_path / "model")
    assert done.returncode == 0, done.stderr
    for file in files:
        assert (tmp_path / "model" / file.name).read_bytes() == file.read_bytes()


def test_a_folder_of_this_machine_is_copied_not_linked(emulator: str, tmp_path: Path) -> None:
    assert fetch(emulator, "build/model", tmp_path / "model").returncode == 0
    fetched = tmp_path / "model" / "weights.safetensors"
    assert fetched.read_bytes() == (MODEL / "weights.safetensors").read_bytes()
    assert not fetched.is_symlink()


@pytest.mark.parametrize(
    ("name", "stays"),
    [
        ("a", True),
        ("a/b.c", True),
        ("a..b", True),
        ("/a", False),
        ("../a", False),
        ("a/../../b", False),
    ],
)
def test_what_points_out_of_the_folder_is_not_fetched(name: str, stays: bool) -> None:
    assert inside(name) is stays  # the emulator keeps no such names


def test_a_folder_with_nothing_in_it_is_said(emulator: str, tmp_path: Path) -> None:
    done = fetch(emulator, "gs://weights/nothing", tmp_path / "model")
    assert done.returncode == 1
    assert "gs://weights/nothing" in done.stderr
