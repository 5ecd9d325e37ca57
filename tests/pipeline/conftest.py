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

from contract.docker import Docker
from tests.cloud.conftest import Done, empty, stage, tiny  # noqa: F401
from tests.container.conftest import DOCKER, image  # noqa: F401
from tests.functions.conftest import emulator  # noqa: F401
from tests.pictures import ROOT

KFP = ROOT / "build/pipeline/venv/bin/python"


@pytest.fixture(scope="session")
def kfp() -> Path:
    """Return the Python of kfp's environment."""
    if not KFP.is_file():
        pytest.fail("kfp is not installed: make build/pipeline/venv/ready")
    return KFP


class Clone(NamedTuple):
    """A copy of the repository, as git would clone it, with a trained model and its archive."""

    root: Path

    def pipeline(self, *words: str, env: dict[str, str] | None = None) -> Done:
        """Run python -m pipeline in it."""
        done = subprocess.run(
            [sys.executable, "-m", "pipeline", *words],
            cwd=self.root,
            capture_output=True,
            text=True,
            env={**os.environ, "DOCKER": DOCKER, **(env or {})},
            timeout=500,
            check=False,
        )
        return Done(done.returncode, done.stdout, done.stderr)

    def records(self) -> list[list[dict[str, Any]]]:
        """Return what the steps of each run wrote down, the last run last."""
        files = sorted((self.root / "build/pipeline/runs").glob("*.jsonl"))
        return [[json.loads(line) for line in file.read_text().splitlines()] for file in files]

    @property
    def archive(self) -> Path:
        """Where the archive lies that is served and deployed."""
        return self.root / "build/model-store/digits.mar"


@pytest.fixture(scope="session")
def clone(kfp: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Clone]:
    """Give a clone; its environments are those of this folder."""
    root = tmp_path_factory.mktemp("clone")
    command = ["git", "ls-files", "--cached", "--others", "--exclude-standard", "-z"]
    listed = subprocess.run(
        command, cwd=ROOT, capture_output=True, text=True, timeout=60, check=True
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
    made = Clone(root)
    yield made
    for tag in {each["image"] for run in made.records() for each in run if "image" in each}:
        Docker(DOCKER)("image", "rm", "--force", tag)
