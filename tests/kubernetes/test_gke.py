"""python -m deploy.gke with the real gcloud, kubectl and their plugin, against a fake cluster."""

import io
import re
import shutil
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import yaml

from deploy.cli import confirm
from deploy.errors import UserError
from deploy.gke import __main__ as command_line
from deploy.gke.overlay import APP, OVERLAYS, Scaling, deployment_kustomization
from deploy.machines import load_table
from deploy.settings import Settings
from tests.images import ROOT, TOY
from tests.kubernetes import fake_cluster, node
from tests.kubernetes.conftest import BIN
from tests.kubernetes.fake_cluster import KINDS, FakeCluster
from tests.programs import Result, require_programs, run_main

pytestmark = pytest.mark.xdist_group("kubernetes")
FILES = {"kustomization.yaml", "kubeconfig"}
DIGEST = f"sha256:{'a' * 64}"
NAME = "us-central1-docker.pkg.dev/my-project/models/toy"
TARGET = f"--project my-project --region us-central1 --cluster c1 --image {NAME}@{DIGEST}"
NAMESPACED = {kind for kinds in KINDS.values() for kind in kinds} - {"Namespace"}
Gke = Callable[..., Result]


@pytest.fixture
def cluster() -> Iterator[FakeCluster]:
    with fake_cluster.running() as cluster:
        yield cluster


@pytest.fixture
def gke(
    cluster: FakeCluster,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capfd: pytest.CaptureFixture[str],
) -> Gke:
    """Return a function that runs python -m deploy.gke from a folder with its input files."""
    require_programs("gcloud", "gke-gcloud-auth-plugin")
    for name in ("kubernetes", "deploy.toml"):
        (tmp_path / name).symlink_to(ROOT / name)
    monkeypatch.chdir(tmp_path)
    (tmp_path / "build").mkdir()
    (tmp_path / "build/toy").symlink_to(ROOT / "build/toy")
    monkeypatch.setenv("MODEL", str(ROOT / "tests/toy"))
    for variable, value in fake_cluster.environment(cluster, tmp_path).items():
        monkeypatch.setenv(variable, value)

    def run(line: str, stdin: str = "", **variables: str) -> Result:
        with monkeypatch.context() as patch:
            patch.setattr(sys, "stdin", io.StringIO(stdin))
            for variable, value in variables.items():
                patch.setenv(variable, value)
            return run_main(command_line.main, line, capfd)

    return run


@pytest.mark.full
def test_image_is_deployed_by_digest_and_deleted_after_confirmation(
    cluster: FakeCluster, gke: Gke
) -> None:
    done = gke(f"deploy {TARGET}")
    assert done.code == 0, done.err
    assert cluster.names() == {f"{kind}/{APP}" for kind in NAMESPACED} | {"Namespace/toy"}
    # kubectl's plugin sent the token.
    assert cluster.tokens == {"Bearer a-token"}
    assert f"'image': '{NAME}@{DIGEST}'" in str(cluster.objects)
    assert "successfully rolled out" in done.out

    done = gke("undeploy --cluster c1", stdin="toy\n")
    assert done.code == 0, done.err
    assert f"deployment.apps/{APP}\n" in done.out.partition("This will be deleted:")[2]
    assert cluster.names() == {"Namespace/toy"}
    assert "nothing to delete" in gke("undeploy --cluster c1").out


@pytest.mark.full
def test_two_models_in_one_cluster_share_no_object_and_no_file(
    cluster: FakeCluster, gke: Gke, tmp_path: Path
) -> None:
    shutil.copytree(TOY, tmp_path / "other-toy")
    for options in ("", f"--model {tmp_path / 'other-toy'}"):
        done = gke(f"deploy {TARGET} {options}")
        assert done.code == 0, done.err
    assert "http://model-server.other-toy/predictions/other-toy" in done.out
    paths = {
        name: {path for path in cluster.objects if f"/namespaces/{name}" in path}
        for name in ("toy", "other-toy")
    }
    assert len(paths["toy"]) == len(paths["other-toy"]) == len(NAMESPACED) + 1
    assert cluster.objects.keys() == paths["toy"] | paths["other-toy"]
    assert not paths["toy"] & paths["other-toy"]
    for name in paths:
        assert {each.name for each in (OVERLAYS / name).iterdir()} == FILES
    assert gke(f"undeploy --cluster c1 --yes --model {tmp_path / 'other-toy'}").code == 0
    assert cluster.objects.keys() == paths["toy"] | {"/api/v1/namespaces/other-toy"}


@pytest.mark.parametrize(
    ("stdin", "reason"), [("no\n", "nothing was deleted"), ("", "no terminal to confirm")]
)
def test_nothing_is_deleted_unless_the_name_is_typed(
    monkeypatch: pytest.MonkeyPatch, stdin: str, reason: str
) -> None:
    monkeypatch.setattr(sys, "stdin", io.StringIO(stdin))
    with pytest.raises(UserError, match=reason):
        confirm("toy", [], yes=False)


def test_dry_run_prints_the_commands_and_sends_no_request(cluster: FakeCluster, gke: Gke) -> None:
    done = gke(f"deploy {TARGET} --dry-run")
    assert done.code == 0, done.err
    assert re.findall("would run (.+)", done.out) == [
        "gcloud container clusters get-credentials c1 --location=us-central1 --project=my-project",
        "kubectl apply --server-side -k build/gke/toy",
        "kubectl rollout status deployment/model-server --namespace toy --timeout=10m",
    ]
    assert not cluster.tokens
    assert gke("undeploy --cluster c1 --project my-project --dry-run").code == 0
    assert not cluster.tokens


def test_image_of_the_sources_is_looked_up_in_the_registry(cluster: FakeCluster, gke: Gke) -> None:
    variables = {
        "DEPLOY_REGISTRY": cluster.url.removeprefix("http://"),
        "DEPLOY_API_ENDPOINT": cluster.url,
    }
    line = "deploy --project my-project --cluster c1 --dry-run"
    missing = gke(line, **variables)
    assert missing.code == 1
    assert "is not in the registry" in missing.err
    assert "make push" in missing.err
    cluster.digest = DIGEST
    done = gke(line, **variables)
    assert done.code == 0, done.err
    assert f"/my-project/models/toy@{DIGEST}" in done.out


@pytest.mark.parametrize(
    ("state", "options", "messages"),
    [
        ({}, f"--image eu-{NAME.removeprefix('us-')}:latest", ["has no digest"]),
        (
            {"served": {name: KINDS[name] for name in ("v1", "apps/v1")}},
            "--queue-wait --duty-cycle",
            [
                "lacks the APIs gateway.networking.k8s.io, networking.gke.io, "
                "monitoring.googleapis.com, external.metrics.k8s.io, custom.metrics.k8s.io",
                "Google's metrics adapter",
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
            ["exceeded its progress deadline", "the last line of a container's log"],
            marks=pytest.mark.full,
        ),
    ],
    ids=["no digest", "APIs missing", "no cluster", "pods never ready"],
)
def test_deployment_that_cannot_succeed_fails_with_a_hint(
    cluster: FakeCluster, gke: Gke, state: dict[str, Any], options: str, messages: list[str]
) -> None:
    for name, value in state.items():
        setattr(cluster, name, value)
    gpu = {"DEPLOY_ACCELERATOR_TYPE": "NVIDIA_L4", "DEPLOY_ACCELERATOR_COUNT": "1"}
    done = gke(f"deploy {TARGET} {options}", **(gpu if "--duty-cycle" in options else {}))
    assert done.code == 1
    for each in messages:
        assert each in done.err
    assert cluster.stuck or not cluster.objects


@pytest.mark.parametrize("program", ["gcloud", "kubectl", "gke-gcloud-auth-plugin"])
def test_missing_program_is_named_with_how_to_install_it(
    gke: Gke, tmp_path: Path, program: str
) -> None:
    folder = tmp_path / "bin"
    folder.mkdir()
    for each in {"gcloud", "kubectl", "gke-gcloud-auth-plugin"} - {program}:
        (folder / each).touch(0o755)
    done = gke(f"deploy {TARGET}", PATH=str(folder))
    assert done.code == 1
    assert f"{program} is not installed" in done.err


def test_deploy_toml_sets_names_model_account_accelerator_and_variables(
    gke: Gke, tmp_path: Path
) -> None:
    (tmp_path / "ours.toml").write_text(
        'name = "flowers"\npredict_route = "/v1/flowers"\nartifact_uri = "gs://bucket/flowers"\n'
        'service_account = "s@p.iam.gserviceaccount.com"\n'
        'accelerator_type = "NVIDIA_TESLA_T4"\naccelerator_count = 2\ngpu_percent = 70\n'
        '[env]\nACCESS_LOG = "all"\n'
    )
    done = gke(f"deploy {TARGET} --dry-run --settings ours.toml --queue-wait --duty-cycle")
    assert done.code == 0, done.err
    found = render(tmp_path / OVERLAYS / "flowers")
    assert found["Namespace"]["metadata"]["name"] == "flowers"
    assert found["HTTPRoute"]["metadata"]["namespace"] == "flowers"
    (rule,) = found["HTTPRoute"]["spec"]["rules"]
    assert [match["path"]["value"] for match in rule["matches"]] == ["/v1/flowers"]
    labels = found["Deployment"]["spec"]["template"]["metadata"]["labels"]
    assert labels["app.kubernetes.io/instance"] == "flowers"
    assert all(
        each["metadata"]["labels"]["app.kubernetes.io/instance"] == "flowers"
        for each in found.values()
    )
    annotations = found["ServiceAccount"]["metadata"]["annotations"]
    assert annotations == {"iam.gke.io/gcp-service-account": "s@p.iam.gserviceaccount.com"}
    pod = found["Deployment"]["spec"]["template"]["spec"]
    assert pod["nodeSelector"] == {
        "cloud.google.com/gke-accelerator": "nvidia-tesla-t4",
        "cloud.google.com/gke-gpu-driver-version": "latest",
    }
    (container,) = pod["containers"]
    assert container["resources"]["limits"]["nvidia.com/gpu"] == "2"
    variables = {
        "AIP_PREDICT_ROUTE": "/v1/flowers",
        "AIP_STORAGE_URI": "gs://bucket/flowers",
        "ACCESS_LOG": "all",
        "GOOGLE_CLOUD_PROJECT": "my-project",
    }
    assert node.environment(pod).items() >= variables.items()
    # Fetching the model may take 20 minutes, and needs egress.
    assert container["startupProbe"]["failureThreshold"] == 1200
    assert found["NetworkPolicy"]["spec"]["egress"]
    cpu, duty_cycle, queue_wait = found["HorizontalPodAutoscaler"]["spec"]["metrics"]
    assert [each["type"] for each in (cpu, duty_cycle, queue_wait)] == [
        *("Resource", "External", "Pods"),
    ]
    # Of this namespace in this cluster only, and a pod has two GPUs.
    assert duty_cycle["external"]["metric"]["selector"]["matchLabels"] == {
        "resource.labels.namespace_name": "flowers",
        "resource.labels.container_name": "serving",
        "resource.labels.cluster_name": "c1",
        "resource.labels.location": "us-central1",
    }
    assert duty_cycle["external"]["target"]["averageValue"] == "140"


def render(folder: Path) -> dict[str, Any]:
    """Return the objects of a generated overlay by kind."""
    command = [str(BIN / "kubectl"), "kustomize", str(folder)]
    text = subprocess.run(command, capture_output=True, timeout=30, check=True).stdout
    return {each["kind"]: each for each in yaml.safe_load_all(text)}


@pytest.mark.parametrize(
    ("lines", "labels"),
    [
        ("", {}),
        ('gpu_partition_size = "3g.71gb"', {"gke-gpu-partition-size": "3g.71gb"}),
        (
            "gpu_max_shared_clients = 4",
            {"gke-gpu-sharing-strategy": "time-sharing", "gke-max-shared-clients-per-gpu": "4"},
        ),
        (
            'gpu_partition_size = "1g.18gb"\ngpu_max_shared_clients = 3',
            {
                "gke-gpu-partition-size": "1g.18gb",
                "gke-gpu-sharing-strategy": "time-sharing",
                "gke-max-shared-clients-per-gpu": "3",
            },
        ),
    ],
    ids=["whole", "part", "shared", "shared part"],
)
def test_pods_run_on_nodes_with_the_gpu_or_its_part_or_share_of_it(
    gke: Gke, tmp_path: Path, lines: str, labels: dict[str, str]
) -> None:
    gpu = 'accelerator_type = "NVIDIA_H200_141GB"\naccelerator_count = 1\n'
    (tmp_path / "ours.toml").write_text(gpu + lines)
    done = gke(f"deploy {TARGET} --dry-run --settings ours.toml")
    assert done.code == 0, done.err
    assert "CPU use only, a poor measure" in done.out
    assert "--duty-cycle" in done.out
    found = render(tmp_path / OVERLAYS / "toy")["Deployment"]["spec"]["template"]["spec"]
    labels = {
        "gke-accelerator": "nvidia-h200-141gb",
        "gke-gpu-driver-version": "latest",
        **labels,
    }
    assert found["nodeSelector"] == {
        f"cloud.google.com/{name}": value for name, value in labels.items()
    }
    assert found["containers"][0]["resources"]["limits"]["nvidia.com/gpu"] == "1"
    clients = [e["value"] for e in found["containers"][0]["env"] if e["name"] == "GPU_CLIENTS"]
    assert clients == [labels[name] for name in labels if "shared-clients" in name]


GKE_NAMES = {
    # https://docs.cloud.google.com/compute/docs/gpus, whose names are the values of the label
    "NVIDIA_TESLA_P4": "nvidia-tesla-p4",
    "NVIDIA_TESLA_P100": "nvidia-tesla-p100",
    "NVIDIA_TESLA_T4": "nvidia-tesla-t4",
    "NVIDIA_TESLA_V100": "nvidia-tesla-v100",
    "NVIDIA_L4": "nvidia-l4",
    "NVIDIA_TESLA_A100": "nvidia-tesla-a100",
    "NVIDIA_A100_80GB": "nvidia-a100-80gb",
    "NVIDIA_H100_80GB": "nvidia-h100-80gb",
    "NVIDIA_H100_MEGA_80GB": "nvidia-h100-mega-80gb",
    "NVIDIA_H200_141GB": "nvidia-h200-141gb",
    "NVIDIA_B200": "nvidia-b200",
    "NVIDIA_GB200": "nvidia-gb200",
    "NVIDIA_RTX_PRO_6000": "nvidia-rtx-pro-6000",
}


def test_every_accelerator_has_its_name_on_gke() -> None:
    assert GKE_NAMES.keys() == load_table().accelerator_types
    for accelerator, name in GKE_NAMES.items():
        settings = Settings(project="my-project", accelerator_type=accelerator, accelerator_count=1)
        content = deployment_kustomization(settings, f"{NAME}@{DIGEST}", Scaling(), {})
        patch = yaml.safe_load(content["patches"][0]["patch"])
        labels = patch["spec"]["template"]["spec"]["nodeSelector"]
        assert labels == {"cloud.google.com/gke-accelerator": name}


L4 = 'accelerator_type = "NVIDIA_L4"\n'


@pytest.mark.parametrize(
    ("text", "options", "messages"),
    [
        (L4, "", ["accelerator_type = 'NVIDIA_L4' without an accelerator_count"]),
        (
            f"{L4}accelerator_count = 2\ngpu_max_shared_clients = 2",
            "",
            ["accelerator_count = 2 with gpu_max_shared_clients = 2: GKE allows one for each pod"],
        ),
        ("gpu_max_shared_clients = 2", "", ["has no effect without accelerator_type"]),
        (
            f'{L4}accelerator_count = 1\ngpu_partition_size = "1g.5gb"',
            "",
            ["'1g.5gb': NVIDIA_L4 cannot be divided", "NVIDIA_TESLA_A100"],
        ),
        ("", "--duty-cycle", ["--duty-cycle has no effect without accelerator_type"]),
        (
            f"{L4}accelerator_count = 1\ngpu_max_shared_clients = 2",
            "--duty-cycle",
            ["--duty-cycle with gpu_max_shared_clients = 2: GKE has no duty cycle", "--queue-wait"],
        ),
    ],
    ids=["no number", "two shared", "nothing shared", "no parts", "no GPU", "no metric"],
)
def test_gpu_settings_that_gke_cannot_follow_are_refused_before_anything_runs(
    gke: Gke, tmp_path: Path, text: str, options: str, messages: list[str]
) -> None:
    (tmp_path / "ours.toml").write_text(text)
    done = gke(f"deploy {TARGET} --settings ours.toml {options}")
    assert done.code == 1
    for each in messages:
        assert each in done.err
    assert not done.out
