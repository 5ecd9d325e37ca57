"""Building with Cloud Build: the real gcloud submits, and whatever ends the wait, no second build begins."""

import itertools
import threading
import zipfile
from pathlib import Path
from typing import Any

import pytest

from deploy import image
from deploy.cli import interrupt
from emulator import artifacts, builds
from emulator.stack import Stack
from tests.cloud.conftest import PROJECT, Run

pytestmark = pytest.mark.full

SMALL = """
steps:
  - id: image
    name: gcr.io/cloud-builders/docker
    script: |
      #!/usr/bin/env bash
      set -eu
      if [ -e spoilt ]; then echo 'it is spoilt'; exit 3; fi
      printf 'FROM debian:bookworm-slim\\nLABEL of=%s\\n' "$TAG" | docker build --quiet --tag "$IMAGE:$TAG" -
images: ['${_REGISTRY}/${PROJECT_ID}/${_REPOSITORY}/${_NAME}:${_TAG}']
substitutions:
  {_NAME: x, _REGION: x, _REPOSITORY: x, _REGISTRY: '${_REGION}-docker.pkg.dev', _TAG: x, _DEPLOY: x, _REVISION: x}
options:
  dynamicSubstitutions: true
  env:
    - IMAGE=${_REGISTRY}/${PROJECT_ID}/${_REPOSITORY}/${_NAME}
    - TAG=${_TAG}
    - DEPLOY=${_DEPLOY}
    - REVISION=${_REVISION}
    - REGION=${_REGION}
"""
HERE = {"DEPLOY_IMAGE": "", "DEPLOY_BUILDER": "cloud"}


@pytest.fixture(autouse=True)
def small(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Stand in a folder whose build takes seconds."""
    archive = tmp_path / image.ARCHIVE
    archive.parent.mkdir(parents=True)
    with zipfile.ZipFile(archive, "w") as file:
        file.writestr("weights", tmp_path.name)
    (tmp_path / "cloudbuild.yaml").write_text(SMALL)
    monkeypatch.chdir(tmp_path)


def test_it_is_built_pushed_not_built_again_and_torn_down_with_its_sources(
    deploy: Run, stack: Stack
) -> None:
    done = deploy("build", **HERE)
    assert done.code == 0, done.err
    assert "success  image" in done.out
    again = deploy("build", **HERE)
    assert "the image is there: " in again.out
    assert "@sha256:" in again.out
    assert len(stack.state.builds) == 1
    with artifacts.storage_client(stack.state.config) as storage:

        def sources() -> list[Any]:
            return list(storage.list_blobs(f"{PROJECT}_cloudbuild"))

        assert sources()
        done = deploy("teardown --yes", **HERE)
        assert done.code == 0, done.err
        assert not sources()
    assert "the images" in done.out
    assert "nothing of digits is left" in deploy("teardown", **HERE).out


def test_after_an_interruption_the_same_build_is_watched_on(
    deploy: Run, stack: Stack, monkeypatch: pytest.MonkeyPatch
) -> None:
    run, step = image.run, builds._run_step
    described, noticed = itertools.count(), threading.Event()

    def watched(google: Any, command: list[str], **options: Any) -> str:
        if "describe" in command:
            if next(described) == 0:
                interrupt()
            noticed.set()
        return run(google, command, **options)

    def held(*args: Any) -> bool:
        """Run a build's step once the second command has found the build under way."""
        return noticed.wait(180) and step(*args)

    monkeypatch.setattr(image, "run", watched)
    monkeypatch.setattr(builds, "_run_step", held)
    assert deploy("build", **HERE).code == 130
    done = deploy("build", **HERE)
    assert done.code == 0, done.err
    assert "waiting for the build of this very image that is under way" in done.out
    assert len(stack.state.builds) == 1


def test_a_build_that_fails_says_where_and_is_begun_anew(deploy: Run, stack: Stack) -> None:
    Path("spoilt").touch()
    failed = deploy("build", **HERE)
    assert failed.code == 1
    assert (
        'Cloud Build ended with FAILURE: build step 0 "gcr.io/cloud-builders/docker" failed'
        in failed.err
    )
    assert "gcloud builds log " in failed.err
    Path("spoilt").unlink()
    assert deploy("build", **HERE).code == 0
    assert len(stack.state.builds) == 2
