"""The manifests as rendered by kubectl, and a network without egress."""

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
OVERLAYS = ("any", "gke-cpu", "gke-gpu", "gke-mig", "gke-time-sharing", "kserve")
MANIFESTS = ROOT / "kubernetes"

Manifest = dict[str, Any]


@cache
def render(folder: Path) -> tuple[Manifest, ...]:
    """Return the objects that a folder renders to."""
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


def overlay(name: str) -> dict[str, Manifest]:
    """Return an overlay's objects by kind; there is one of each."""
    found = {each["kind"]: each for each in render(MANIFESTS / "overlays" / name)}
    assert len(found) == len(render(MANIFESTS / "overlays" / name))
    return found


def pod(name: str) -> Manifest:
    """Return an overlay's pod specification."""
    found = overlay(name)
    if "InferenceService" in found:
        return dict(found["InferenceService"]["spec"]["predictor"])
    return dict(found["Deployment"]["spec"]["template"]["spec"])


@pytest.fixture(scope="session")
def network(image: str) -> Iterator[str]:  # noqa: F811, ARG001  it needs Docker
    """Create a network without egress, like the NetworkPolicy."""
    name = f"kubernetes-tests-{os.getpid()}"
    docker("network", "create", "--internal", name)
    yield name
    docker("network", "rm", name)
