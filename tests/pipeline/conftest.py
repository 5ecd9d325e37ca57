"""A copy of this repository in which the pipeline may lay what it makes, and its environment."""

import json
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any, NamedTuple

import pytest

from contract.docker import Docker
from tests.cloud.conftest import shared_stack, stack, tiny  # noqa: F401
from tests.container.conftest import DOCKER, image  # noqa: F401
from tests.functions.conftest import emulator  # noqa: F401
from tests.images import ROOT
from tests.programs import Result, copy_repository, run_program

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

    def pipeline(self, *words: str, env: dict[str, str] | None = None) -> Result:
        """Run python -m pipeline in it."""
        command = [sys.executable, "-m", "pipeline", *words]
        return run_program(command, {"DOCKER": DOCKER, **(env or {})}, cwd=self.root, timeout_s=500)

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
    copy_repository(root)
    (root / "build/pipeline").mkdir()
    (root / "build/pipeline/venv").symlink_to(kfp.parents[1])
    made = Clone(root)
    yield made
    for tag in {each["image"] for run in made.records() for each in run if "image" in each}:
        Docker(DOCKER)("image", "rm", "--force", tag)
