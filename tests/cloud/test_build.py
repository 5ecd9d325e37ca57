"""Tests of `build` with Cloud Build: the real gcloud submits the sources to the emulator."""

import io
import itertools
import re
import tarfile
import threading
import time
import zipfile
from pathlib import Path
from typing import Any

import pytest

from deploy.cli import interrupt
from deploy.gcp.jobs import Jobs
from emulator import artifacts, build_steps
from emulator.stack import Stack
from tests.cloud.conftest import PROJECT, Run
from tests.images import ROOT

pytestmark = pytest.mark.full

CONFIG = """
steps:
  - id: image
    name: gcr.io/cloud-builders/docker
    script: |
      #!/usr/bin/env bash
      set -eu
      if [ -e invalid ]; then echo 'invalid sources'; exit 3; fi
      printf 'FROM debian:bookworm-slim\\nLABEL of=%s\\n' "$TAG" | docker build --quiet --tag "$IMAGE:$TAG" -
images: ['${_REGISTRY}/${PROJECT_ID}/${_REPOSITORY}/${_NAME}:${_TAG}']
substitutions:
  {_MODEL: x, _NAME: x, _REGION: x, _REPOSITORY: x, _REGISTRY: '${_REGION}-docker.pkg.dev', _TAG: x, _DEPLOY: x,
   _REVISION: x}
options:
  dynamicSubstitutions: true
  env:
    - IMAGE=${_REGISTRY}/${PROJECT_ID}/${_REPOSITORY}/${_NAME}
    - TAG=${_TAG}
    - MODEL=${_MODEL}
    - DEPLOY=${_DEPLOY}
    - REVISION=${_REVISION}
    - REGION=${_REGION}
"""
CLOUD_BUILD = {"DEPLOY_IMAGE": "", "DEPLOY_BUILDER": "cloud"}


@pytest.fixture(autouse=True)
def sources(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Change to a folder whose build takes seconds."""
    archive = tmp_path / "build/toy/toy.mar"
    archive.parent.mkdir(parents=True)
    (tmp_path / ".gcloudignore").write_text("build/*\n")
    monkeypatch.setenv("MODEL", str(ROOT / "tests/toy"))
    with zipfile.ZipFile(archive, "w") as file:
        file.writestr("weights", tmp_path.name)
    (tmp_path / "cloudbuild.yaml").write_text(CONFIG)
    monkeypatch.chdir(tmp_path)


def test_image_is_built_once_and_deleted_with_its_sources_by_teardown(
    deploy: Run, stack: Stack
) -> None:
    done = deploy("build", **CLOUD_BUILD)
    assert done.code == 0, done.err
    assert "success  image" in done.out
    again = deploy("build", **CLOUD_BUILD)
    assert "the image is in the registry: " in again.out
    assert "@sha256:" in again.out
    assert len(stack.state.builds) == 1
    with artifacts.storage_client(stack.state.config) as storage:

        def uploaded() -> list[Any]:
            return list(storage.list_blobs(f"{PROJECT}_cloudbuild"))

        assert uploaded()
        done = deploy("teardown --yes", **CLOUD_BUILD)
        assert done.code == 0, done.err
        assert not uploaded()
    assert "the images" in done.out
    assert "nothing of toy to delete" in deploy("teardown", **CLOUD_BUILD).out


def test_only_the_files_of_the_selected_model_are_uploaded(deploy: Run, stack: Stack) -> None:
    for name in (
        *("build/toy/packages/wheels/x.whl", "build/toy/requests.json", "build/toy/weights/x.pt"),
        *(
            "build/other/other.mar",
            "build/other/requests.json",
            "model/other/x.pt",
            "tests/cases.py",
        ),
    ):
        path = Path(name)
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text("x" * 10)
    assert deploy("build", **CLOUD_BUILD).code == 0
    with artifacts.storage_client(stack.state.config) as storage:
        (blob,) = storage.list_blobs(f"{PROJECT}_cloudbuild", prefix="toy-source/")
        with tarfile.open(fileobj=io.BytesIO(blob.download_as_bytes())) as archive:
            uploaded = {member.name.removeprefix("./") for member in archive if member.isfile()}
    assert uploaded - {".gcloudignore", "emulator.toml"} == {
        *("cloudbuild.yaml", "tests/cases.py", "build/toy/toy.mar", "build/toy/requests.json"),
        "build/toy/packages/wheels/x.whl",
    }


def test_second_command_waits_for_the_build_of_an_interrupted_one(
    deploy: Run, stack: Stack, monkeypatch: pytest.MonkeyPatch
) -> None:
    find_build, run_step = Jobs.find_build, build_steps.run_step
    described, found = itertools.count(), threading.Event()

    def find_and_interrupt(self: Jobs, build_id: str) -> Any:
        if next(described) == 0:
            interrupt()
        found.set()
        return find_build(self, build_id)

    def run_step_when_found(*args: Any) -> bool:
        """Run a build's step once the second command has found the build."""
        return found.wait(180) and bool(run_step(*args))

    monkeypatch.setattr(Jobs, "find_build", find_and_interrupt)
    monkeypatch.setattr(build_steps, "run_step", run_step_when_found)
    assert deploy("build", **CLOUD_BUILD).code == 130
    done = deploy("build", **CLOUD_BUILD)
    assert done.code == 0, done.err
    assert "waiting for the running build of this image" in done.out
    assert len(stack.state.builds) == 1


def test_teardown_cancels_the_build_of_an_interrupted_command_and_waits_for_its_end(
    deploy: Run, stack: Stack, monkeypatch: pytest.MonkeyPatch
) -> None:
    Path("cloudbuild.yaml").write_text(CONFIG.replace("set -eu", "set -eu; sleep 60"))
    with monkeypatch.context() as patch:
        patch.setattr(Jobs, "find_build", interrupt)
        assert deploy("build --serve deploy", **CLOUD_BUILD).code == 130
    shown = deploy("status", **CLOUD_BUILD).out
    assert re.search(r"build [0-9a-f-]+: working, new, \$0.016 a minute, then: deploy", shown)
    started_s = time.monotonic()
    done = deploy("teardown --yes", **CLOUD_BUILD)
    assert done.code == 0, done.err
    assert time.monotonic() - started_s < 30
    assert "has ended: cancelled" in done.out
    assert [build.status.name for build in stack.state.builds.values()] == ["CANCELLED"]
    assert "cost: none, nothing is running" in deploy("status", **CLOUD_BUILD).out


def test_failed_build_is_an_error_with_its_step_and_can_be_repeated(
    deploy: Run, stack: Stack
) -> None:
    Path("invalid").touch()
    failed = deploy("build", **CLOUD_BUILD)
    assert failed.code == 1
    assert (
        'Cloud Build ended with FAILURE: build step 0 "gcr.io/cloud-builders/docker" failed'
        in failed.err
    )
    assert "| image: invalid sources" in failed.out
    assert "gcloud logging read 'resource.type=" in failed.err
    Path("invalid").unlink()
    assert deploy("build", **CLOUD_BUILD).code == 0
    assert len(stack.state.builds) == 2
