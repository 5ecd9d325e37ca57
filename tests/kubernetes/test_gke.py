"""python -m deploy.gke: the real gcloud, kubectl and their plugin, against a stand-in for GKE and a cluster."""

import io
import re
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import yaml

from deploy import fingerprint
from deploy.cli import confirm
from deploy.errors import UserError
from deploy.gke import __main__ as command_line
from deploy.gke.overlay import WRITTEN
from tests.images import ROOT
from tests.kubernetes.conftest import BIN
from tests.kubernetes.node import environ
from tests.kubernetes.stand_in import KINDS, World, environment, standing_in
from tests.programs import Result, require_programs, run_main

pytestmark = pytest.mark.xdist_group("kubernetes")
DIGEST = f"sha256:{'a' * 64}"
NAME = "us-central1-docker.pkg.dev/my-project/models/digits"
TO = f"--project my-project --region us-central1 --cluster c1 --image {NAME}@{DIGEST}"
KINDS_APPLIED = {kind for kinds in KINDS.values() for kind in kinds}
Gke = Callable[..., Result]


@pytest.fixture
def world() -> Iterator[World]:
    with standing_in() as world:
        yield world


@pytest.fixture
def gke(
    world: World, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> Gke:
    """Return a function that runs python -m deploy.gke, from a folder that has what it reads."""
    require_programs("gcloud", "gke-gcloud-auth-plugin")
    for name in ("kubernetes", "deploy.toml"):
        (tmp_path / name).symlink_to(ROOT / name)
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(fingerprint, "ARCHIVE", ROOT / "build/model-store/digits.mar")
    for variable, value in environment(world, tmp_path).items():
        monkeypatch.setenv(variable, value)

    def run(line: str, says: str = "", **more: str) -> Result:
        with monkeypatch.context() as patch:
            patch.setattr(sys, "stdin", io.StringIO(says))
            for variable, value in more.items():
                patch.setenv(variable, value)
            return run_main(command_line.main, line, capfd)

    return run


@pytest.mark.full
def test_it_is_deployed_by_digest_and_undeployed_when_one_agrees(world: World, gke: Gke) -> None:
    done = gke(f"deploy {TO}")
    assert done.code == 0, done.err
    assert world.names() == {f"{kind}/digits" for kind in KINDS_APPLIED}
    # It was kubectl's plugin that said who asks.
    assert world.tokens == {"Bearer a-token"}
    assert f"'image': '{NAME}@{DIGEST}'" in str(world.objects)
    assert "successfully rolled out" in done.out

    done = gke("undeploy --cluster c1", says="digits\n")
    assert done.code == 0, done.err
    assert "deployment.apps/digits\n" in done.out.partition("This will be deleted:")[2]
    assert world.names() == {"Namespace/digits"}
    assert "nothing changed" in gke("undeploy --cluster c1").out


@pytest.mark.parametrize(
    ("says", "why"), [("no\n", "nothing was deleted"), ("", "no terminal to confirm")]
)
def test_without_the_name_nothing_is_deleted(
    monkeypatch: pytest.MonkeyPatch, says: str, why: str
) -> None:
    monkeypatch.setattr(sys, "stdin", io.StringIO(says))
    with pytest.raises(UserError, match=why):
        confirm("digits", [], yes=False)


def test_a_dry_run_prints_the_lines_and_asks_nobody(world: World, gke: Gke) -> None:
    done = gke(f"deploy {TO} --dry-run")
    assert done.code == 0, done.err
    assert re.findall("would run (.+)", done.out) == [
        "gcloud container clusters get-credentials c1 --location=us-central1 --project=my-project",
        "kubectl apply --server-side -k build/gke/digits",
        "kubectl rollout status deployment/digits --namespace digits --timeout=10m",
    ]
    assert not world.tokens
    assert gke("undeploy --cluster c1 --project my-project --dry-run").code == 0
    assert not world.tokens


def test_the_image_of_these_sources_is_looked_up_in_the_registry(world: World, gke: Gke) -> None:
    here = {"DEPLOY_REGISTRY": world.url.removeprefix("http://"), "DEPLOY_API_ENDPOINT": world.url}
    line = "deploy --project my-project --cluster c1 --dry-run"
    missing = gke(line, **here)
    assert missing.code == 1
    assert "is not in the registry" in missing.err
    assert "make push" in missing.err
    world.digest = DIGEST
    done = gke(line, **here)
    assert done.code == 0, done.err
    assert f"/my-project/models/digits@{DIGEST}" in done.out


@pytest.mark.parametrize(
    ("state", "options", "messages"),
    [
        ({}, f"--image eu-{NAME.removeprefix('us-')}:latest", ["has no digest"]),
        (
            {"served": {name: KINDS[name] for name in ("v1", "apps/v1")}},
            "--queue-wait",
            [
                "does not serve gateway.networking.k8s.io, networking.gke.io, "
                "monitoring.googleapis.com, custom.metrics.k8s.io",
                "--gateway-api=standard",
                "--update-addons=HttpLoadBalancing=ENABLED",
                "--enable-managed-prometheus",
                "docs/kubernetes.md",
            ],
        ),
        ({"clusters": ()}, "", ["gcloud container clusters create-auto c1"]),
        pytest.param(
            {"stuck": True},
            "",
            ["exceeded its progress deadline", "its last line"],
            marks=pytest.mark.full,
        ),
    ],
    ids=["no digest", "APIs missing", "no cluster", "pods never ready"],
)
def test_what_stops_a_deployment_is_said_with_what_to_do(
    world: World, gke: Gke, state: dict[str, Any], options: str, messages: list[str]
) -> None:
    for name, value in state.items():
        setattr(world, name, value)
    done = gke(f"deploy {TO} {options}")
    assert done.code == 1
    for each in messages:
        assert each in done.err
    assert world.stuck or not world.objects


@pytest.mark.parametrize("program", ["gcloud", "kubectl", "gke-gcloud-auth-plugin"])
def test_a_missing_program_is_named_with_where_it_comes_from(
    gke: Gke, tmp_path: Path, program: str
) -> None:
    there = tmp_path / "bin"
    there.mkdir()
    for each in {"gcloud", "kubectl", "gke-gcloud-auth-plugin"} - {program}:
        (there / each).touch(0o755)
    done = gke(f"deploy {TO}", PATH=str(there))
    assert done.code == 1
    assert f"{program} is not installed" in done.err


def test_deploy_toml_says_what_is_served_and_as_whom(gke: Gke, tmp_path: Path) -> None:
    (tmp_path / "ours.toml").write_text(
        'name = "flowers"\nartifact_uri = "gs://b/flowers"\nservice_account = "s@p.iam.gserviceaccount.com"\n'
        'accelerator_type = "NVIDIA_TESLA_T4"\naccelerator_count = 2\n[env]\nACCESS_LOG = "all"\n'
    )
    done = gke(f"deploy {TO} --dry-run --settings ours.toml --queue-wait")
    assert done.code == 0, done.err
    render = [str(BIN / "kubectl"), "kustomize", str(tmp_path / WRITTEN / "flowers")]
    text = subprocess.run(render, capture_output=True, timeout=30, check=True).stdout
    found = {each["kind"]: each for each in yaml.safe_load_all(text)}
    assert found["Namespace"]["metadata"]["name"] == "flowers"
    assert found["HTTPRoute"]["metadata"]["namespace"] == "flowers"
    annotations = found["ServiceAccount"]["metadata"]["annotations"]
    assert annotations == {"iam.gke.io/gcp-service-account": "s@p.iam.gserviceaccount.com"}
    pod = found["Deployment"]["spec"]["template"]["spec"]
    assert pod["nodeSelector"] == {"cloud.google.com/gke-accelerator": "nvidia-tesla-t4"}
    (container,) = pod["containers"]
    assert container["resources"]["limits"]["nvidia.com/gpu"] == "2"
    variables = {
        "AIP_PREDICT_ROUTE": "/predictions/digits",
        "AIP_STORAGE_URI": "gs://b/flowers",
        "ACCESS_LOG": "all",
        "GOOGLE_CLOUD_PROJECT": "my-project",
    }
    assert environ(pod).items() >= variables.items()
    # A model that is fetched may take its 20 minutes, and leaves the cluster to do so.
    assert container["startupProbe"]["failureThreshold"] == 1200
    assert found["NetworkPolicy"]["spec"]["egress"]
    assert len(found["HorizontalPodAutoscaler"]["spec"]["metrics"]) == 2
