"""docs/kubernetes.md: its commands print what it shows, its overlay is valid, and its error messages exist."""

import os
import re
import shutil
from pathlib import Path

import pytest

from tests.cloud.guide import REAL_CLOUD, check_example, read_examples
from tests.images import ROOT
from tests.kubernetes import fake_cluster
from tests.kubernetes.conftest import MANIFESTS, render
from tests.kubernetes.test_manifests import validate
from tests.programs import require_programs

pytestmark = pytest.mark.xdist_group("kubernetes")
GUIDE = ROOT / "docs" / "kubernetes.md"
IMAGE = f"us-central1-docker.pkg.dev/my-project/models/digits@sha256:{'a' * 64}"


@pytest.mark.full
def test_commands_print_what_the_guide_shows(tmp_path: Path) -> None:
    require_programs("gcloud", "gke-gcloud-auth-plugin")
    with fake_cluster.running() as cluster:
        env = {
            **os.environ,
            **fake_cluster.environment(cluster, tmp_path),
            "DEPLOY_IMAGE": IMAGE,
            "DEPLOY_API_ENDPOINT": cluster.url,
        }
        for name in ("MAKELEVEL", "MAKEFLAGS", "MFLAGS"):
            env.pop(name, None)
        commands = [each for each in read_examples(GUIDE) if not each.command.endswith(REAL_CLOUD)]
        for each in commands:
            check_example(each, each.command, env, ROOT)
        assert len(commands) == 3
        assert cluster.names() == {"Namespace/digits"}


def test_overlay_in_the_guide_is_valid_and_takes_effect(tmp_path: Path) -> None:
    (text,) = re.findall(r"```yaml\n(.+?)```", GUIDE.read_text(), re.DOTALL)
    shutil.copytree(MANIFESTS, tmp_path / "kubernetes")
    (tmp_path / "flowers").mkdir()
    (tmp_path / "flowers" / "kustomization.yaml").write_text(text)
    done = validate(tmp_path / "flowers")
    assert done.returncode == 0, done.stderr
    found = {each["kind"]: each for each in render(tmp_path / "flowers")}
    (container,) = found["Deployment"]["spec"]["template"]["spec"]["containers"]
    assert container["image"].startswith("registry.example.com/models/flowers@sha256:9f86")
    assert found["Ingress"]["spec"]["rules"][0]["host"] == "flowers.example.com"
    assert found["Namespace"]["metadata"]["name"] == "flowers"
    assert found["Service"]["metadata"]["namespace"] == "flowers"
    assert len(found["HorizontalPodAutoscaler"]["spec"]["metrics"]) == 2


@pytest.mark.parametrize(
    "message", re.findall(r"^\| `([^`]+)` \|", GUIDE.read_text(), re.MULTILINE)
)
def test_error_messages_in_the_guide_exist(message: str) -> None:
    assert any(message in file.read_text() for file in (ROOT / "deploy").rglob("*.py"))
