"""A copy of this repository in which the pipeline may lay what it makes, and its environment."""

import json
import os
import shutil
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any, NamedTuple

import pytest

from tests.cloud.conftest import empty, stage, tiny  # noqa: F401
from tests.container.conftest import DOCKER, docker, image  # noqa: F401
from tests.pictures import ROOT

KFP = ROOT / "build/pipeline/venv/bin/python"
TINY = ("--pictures", "1024", "--epochs", "1", "--examined", "60")
"""A training of seconds, whose network reads one digit in ten, and an evaluation of seconds."""


@pytest.fixture(scope="session")
def kfp() -> Path:
    """Return the Python of kfp's environment."""
    if not KFP.is_file():
        pytest.fail("kfp is not installed: make build/pipeline/venv/ready")
    return KFP


class Ran(NamedTuple):
    """A command of the pipeline that ended."""

    code: int
    out: str
    err: str


class Clone(NamedTuple):
    """A copy of the repository, as git would clone it, with a trained model and its archive."""

    root: Path

    def pipeline(
        self, *words: str, env: dict[str, str] | None = None, timeout_s: float = 500
    ) -> Ran:
        """Run python -m pipeline in it."""
        done = subprocess.run(
            [sys.executable, "-m", "pipeline", *words],
            cwd=self.root,
            capture_output=True,
            text=True,
            env={**os.environ, "DOCKER": DOCKER, **(env or {})},
            timeout=timeout_s,
            check=False,
        )
        return Ran(done.returncode, done.stdout, done.stderr)

    def records(self) -> list[dict[str, Any]]:
        """Return what the steps of the last run wrote down."""
        last = max((self.root / "build/pipeline/runs").glob("*.jsonl"))
        return [json.loads(line) for line in last.read_text().splitlines()]

    @property
    def archive(self) -> Path:
        """Where the archive lies that is served and deployed."""
        return self.root / "build/model-store/digits.mar"


@pytest.fixture(scope="session")
def clone(kfp: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Clone]:
    """Give a clone; its environments are those of this folder."""
    root = tmp_path_factory.mktemp("clone")
    listed = subprocess.run(
        ["git", "ls-files", "--cached", "--others", "--exclude-standard", "-z"],
        cwd=ROOT,
        capture_output=True,
        text=True,
        timeout=60,
        check=True,
    ).stdout.split("\0")
    for name in filter(None, listed):
        if (ROOT / name).exists():
            (root / name).parent.mkdir(parents=True, exist_ok=True)
            shutil.copy2(ROOT / name, root / name, follow_symlinks=False)
    for folder in ("model", "model-store"):
        shutil.copytree(ROOT / "build" / folder, root / "build" / folder)
    (root / "build/pipeline").mkdir()
    (root / "build/pipeline/venv").symlink_to(kfp.parents[1])
    (root / ".venv").symlink_to(sys.prefix)
    for lock in (root / "requirements").glob("*.lock"):
        os.utime(lock, (0, 0))  # or make takes .venv for older than they are
    yield Clone(root)
    for tag in _made(root):  # there are none where no engine answers
        docker("image", "rm", f"pipeline-digits:{tag}", check=False)


def _made(root: Path) -> set[str]:
    """Return the tags of the images that runs in a clone made."""
    lines = [
        json.loads(line)
        for file in (root / "build/pipeline/runs").glob("*.jsonl")
        for line in file.read_text().splitlines()
    ]
    return {each["image"].rpartition(":")[2] for each in lines if "image" in each}
