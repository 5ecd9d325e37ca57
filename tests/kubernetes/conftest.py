"""The manifests as kubectl renders them, and the image that they start."""

import os
import subprocess
from collections.abc import Iterator
from functools import cache
from pathlib import Path
from typing import Any

import pytest
import yaml

from tests.container.conftest import docker, image  # noqa: F401
from tests.images import ROOT

BIN = ROOT / "build" / "kubernetes" / "bin"
OVERLAYS = ("any", "gke-cpu", "gke-gpu", "kserve")
MANIFESTS = ROOT / "kubernetes"

Thing = dict[str, Any]


@cache
def rendered(folder: Path) -> tuple[Thing, ...]:
    """Return the objects that a folder makes."""
    assert (BIN / "kubectl").exists(), "no kubectl in build/kubernetes: make build/kubernetes/ready"
    done = subprocess.run(
        [BIN / "kubectl", "kustomize", folder],
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    return tuple(yaml.safe_load_all(done.stdout))


def overlay(name: str) -> dict[str, Thing]:
    """Return an overlay's objects by their kind; there is one of each."""
    found = {each["kind"]: each for each in rendered(MANIFESTS / "overlays" / name)}
    assert len(found) == len(rendered(MANIFESTS / "overlays" / name))
    return found


def pod(name: str) -> Thing:
    """Return the pod that an overlay makes."""
    found = overlay(name)
    if "InferenceService" in found:
        return dict(found["InferenceService"]["spec"]["predictor"])
    return dict(found["Deployment"]["spec"]["template"]["spec"])


@pytest.fixture(scope="session")
def network(image: str) -> Iterator[str]:  # noqa: F811, ARG001  it needs an engine
    """Make a network that nothing leaves, as the NetworkPolicy says."""
    name = f"kubernetes-tests-{os.getpid()}"
    docker("network", "create", "--internal", name)
    yield name
    docker("network", "rm", name)
