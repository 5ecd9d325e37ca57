"""docs/kubernetes.md: its commands print what it shows, its overlay is valid, and its error messages exist."""

import os
import re
import shutil
from pathlib import Path

import pytest

from project.model_folder import DEFAULT
from tests.cloud.guide import REAL_CLOUD, check_example, read_examples
from tests.images import ROOT
from tests.kubernetes import fake_cluster
from tests.kubernetes.conftest import MANIFESTS, render
from tests.kubernetes.conftest import pod as pod_of
from tests.kubernetes.node import environment
from tests.kubernetes.test_manifests import validate
from tests.programs import require_programs

pytestmark = pytest.mark.xdist_group("kubernetes")
GUIDE = ROOT / "docs" / "kubernetes.md"
IMAGE = f"us-central1-docker.pkg.dev/my-project/models/toy@sha256:{'a' * 64}"


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
            # The page has the name of the default model in place of that of the tests' model.
            own = each._replace(output=each.output.replace(DEFAULT, "toy"))
            check_example(own, each.command, env, ROOT)
        assert len(commands) == 3
        assert cluster.names() == {"Namespace/toy"}


@pytest.fixture(params=["any", "kserve"])
def overlay(request: pytest.FixtureRequest, tmp_path: Path) -> Path:
    """Write an overlay of the guide to a folder beside the manifests."""
    (text,) = [each for each in read_manifests() if f"overlays/{request.param}\n" in each]
    return write_overlay(tmp_path, text)


def read_manifests() -> list[str]:
    """Return the manifests in the guide."""
    return re.findall(r"```yaml\n(.+?)```", GUIDE.read_text(), re.DOTALL)


def write_overlay(folder: Path, text: str) -> Path:
    """Write an overlay to a folder beside the manifests; return its folder."""
    shutil.copytree(MANIFESTS, folder / "kubernetes")
    (folder / "flowers").mkdir()
    (folder / "flowers" / "kustomization.yaml").write_text(text)
    return folder / "flowers"


@pytest.mark.parametrize(
    ("part", "resource", "labels"),
    [
        ("nvidia.com/gpu.product", "nvidia.com/gpu", {"nvidia.com/gpu.product": "NVIDIA-L4"}),
        ("components/mig", "nvidia.com/mig-3g.40gb", {}),
    ],
)
def test_lines_in_the_guide_add_a_gpu_or_a_part_of_one_on_any_cluster(
    tmp_path: Path, part: str, resource: str, labels: dict[str, str]
) -> None:
    (lines,) = [each for each in read_manifests() if part in each]
    folder = write_overlay(tmp_path, f"resources: [../kubernetes/overlays/any]\n{lines}")
    done = validate(folder)
    assert done.returncode == 0, done.stderr
    rendered = render.__wrapped__(
        folder
    )  # uncached: the folder of the other case may have its name
    (found,) = [each for each in rendered if each["kind"] == "Deployment"]
    spec = found["spec"]["template"]["spec"]
    assert spec.get("nodeSelector", {}) == labels
    resources = spec["containers"][0]["resources"]
    assert resources["limits"] == resources["requests"]
    assert {each for each in resources["limits"] if "/" in each} == {resource}


def test_overlay_in_the_guide_is_valid_and_sets_the_names_of_the_model(overlay: Path) -> None:
    done = validate(overlay)
    assert done.returncode == 0, done.stderr
    found = {each["kind"]: each for each in render(overlay)}
    assert found["Namespace"]["metadata"]["name"] == "flowers"
    namespaces = {each["metadata"].get("namespace") for each in found.values()}
    assert namespaces == {"flowers", None}
    is_kserve = "InferenceService" in found
    if is_kserve:
        pod = found["InferenceService"]["spec"]["predictor"]
    else:
        pod = found["Deployment"]["spec"]["template"]["spec"]
    (container,) = pod["containers"]
    assert container["image"].startswith("registry.example.com/models/flowers@sha256:9f86")
    variables = environment(pod)
    assert variables.keys() == environment(pod_of("any")).keys()
    if is_kserve:
        assert variables["AIP_PREDICT_ROUTE"] == "/v1/models/flowers:predict"
        for kind in ("startupProbe", "readinessProbe", "livenessProbe"):
            path = container[kind]["httpGet"]["path"]
            assert path == variables["AIP_HEALTH_ROUTE"] == "/v1/models/flowers"
        return
    assert variables["AIP_PREDICT_ROUTE"] == "/predictions/flowers"
    (rule,) = found["Ingress"]["spec"]["rules"]
    assert rule["host"] == "flowers.example.com"
    assert [each["path"] for each in rule["http"]["paths"]] == ["/predictions/flowers"]
    assert len(found["HorizontalPodAutoscaler"]["spec"]["metrics"]) == 2


@pytest.mark.parametrize(
    "message",
    re.findall(
        r"^\| `([^`]+)`", GUIDE.read_text().partition("## Troubleshooting")[2], re.MULTILINE
    ),
)
def test_error_messages_in_the_guide_exist(message: str) -> None:
    assert any(message in file.read_text() for file in (ROOT / "deploy").rglob("*.py"))
