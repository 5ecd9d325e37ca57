"""Fixtures: kfp's environment, and a copy of the repository that the pipeline may write to."""

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
TRAINABLE = "tests/pipeline/threshold"
"""A model with train.py, which also writes held-out.json."""


@pytest.fixture(scope="session")
def kfp() -> Path:
    """Return the Python of kfp's environment."""
    if not KFP.is_file():
        pytest.fail("kfp is not installed: make build/pipeline/venv/ready")
    return KFP


class Clone(NamedTuple):
    """A copy of the repository's tracked files."""

    root: Path

    def pipeline(self, *arguments: str, model: str = TRAINABLE, **env: str) -> Result:
        """Run python -m pipeline in it."""
        command = [sys.executable, "-m", "pipeline", *arguments]
        env = {"DOCKER": DOCKER, "MODEL": model, **env}
        return run_program(command, env, cwd=self.root, timeout_s=500)

    def records(self) -> list[list[dict[str, Any]]]:
        """Return the steps' records of each run, the last run last."""
        files = sorted((self.root / "build/pipeline/runs").glob("*.jsonl"))
        return [[json.loads(line) for line in file.read_text().splitlines()] for file in files]

    @property
    def archive(self) -> Path:
        """The archive of the trainable model that is served and deployed."""
        return self.root / "build/threshold/threshold.mar"


@pytest.fixture(scope="module")
def clone(kfp: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Clone]:
    """Yield a clone with the environments of this folder; remove its images at the end."""
    root = tmp_path_factory.mktemp("clone")
    copy_repository(root)
    (root / "build/pipeline").mkdir(parents=True)
    (root / "build/pipeline/venv").symlink_to(kfp.parents[1])
    clone = Clone(root)
    yield clone
    for tag in {each["image"] for run in clone.records() for each in run if "image" in each}:
        Docker(DOCKER)("image", "rm", "--force", tag)
