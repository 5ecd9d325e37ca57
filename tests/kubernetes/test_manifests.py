"""The manifests: valid, consistent, and with the sizes and timeouts of the container."""

import json
import shutil
import subprocess
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import yaml

from deploy.gke.overlay import APP, IMAGE
from serving.container import entrypoint, supervisor
from serving.layout import choose_cpu_layout, max_cpu_workers
from serving.torchserve_config import TorchServeConfig
from tests.images import ARCHIVE, ROOT
from tests.kubernetes.conftest import BIN, MANIFESTS, OVERLAYS, Manifest, overlay, pod, render
from tests.kubernetes.node import (
    INJECTED,
    KSERVE,
    POD_FIELDS,
    SCHEDULED,
    SECURITY,
    environment,
    parse_quantity,
)
from tests.programs import require_programs

pytestmark = pytest.mark.xdist_group("kubernetes")
LAYERED = ("any", "gke-cpu", "gke-gpu")
"""Overlays with a Deployment, which support the components."""
WITH_GPU = ("gke-gpu", "gke-mig", "gke-time-sharing")
BASE = pod("any")
(CONTAINER,) = BASE["containers"]


def validate(*folders: Path) -> subprocess.CompletedProcess[str]:
    """Run the program behind make manifests."""
    command = [str(BIN / "python"), "-m", "deploy.gke.validate", *map(str, folders)]
    return subprocess.run(
        command, cwd=ROOT, capture_output=True, text=True, timeout=120, check=False
    )


@pytest.fixture
def combined(tmp_path: Path) -> list[Path]:
    """Return a folder for each overlay with all components."""
    shutil.copytree(MANIFESTS, tmp_path / "kubernetes")
    for name in LAYERED:
        names = [*(["gpu", "mig"] if name == "any" else []), "bucket", "duty-cycle", "queue-wait"]
        components = [f"../kubernetes/components/{each}" for each in names]
        content = {"resources": [f"../kubernetes/overlays/{name}"], "components": components}
        (tmp_path / name).mkdir()
        (tmp_path / name / "kustomization.yaml").write_text(yaml.safe_dump(content))
    return [tmp_path / name for name in LAYERED]


@pytest.mark.full
def test_every_object_of_every_overlay_is_valid_in_all_versions(combined: list[Path]) -> None:
    folders = [*(MANIFESTS / "overlays" / name for name in OVERLAYS), *combined]
    done = validate(*folders)
    assert done.returncode == 0, done.stderr
    assert done.stdout.count("valid in Kubernetes 1.35, 1.36, 1.37") == len(folders)


def test_each_version_has_schemas_of_its_own() -> None:
    """For a version without schemas, kubernetes_validate would use the next older one."""
    check = (
        "import kubernetes_validate as k; from deploy.gke.validate import VERSIONS\n"
        "assert set(VERSIONS) <= {k.utils.major_minor(each) for each in k.utils.all_versions()}"
    )
    subprocess.run([BIN / "python", "-c", check], cwd=ROOT, timeout=30, check=True)


@pytest.mark.parametrize(
    ("file", "old", "new", "message"),
    [
        ("base/deployment.yaml", "periodSeconds", "periodSecond", "'periodSecond' was unexpected"),
        ("base/autoscaler.yaml", "averageUtilization: 60", "averageUtilization: much", "'much'"),
        ("overlays/gke-cpu/gateway.yaml", "type: Exact", "type: Exactly", "'Exactly' is not one"),
        ("overlays/gke-cpu/monitoring.yaml", "PodMonitoring", "PodWatching", "no schema of"),
    ],
)
def test_mistake_is_reported_with_its_field(
    tmp_path: Path, file: str, old: str, new: str, message: str
) -> None:
    shutil.copytree(MANIFESTS, tmp_path / "kubernetes")
    broken = tmp_path / "kubernetes" / file
    assert old in broken.read_text()
    broken.write_text(broken.read_text().replace(old, new))
    done = validate(tmp_path / "kubernetes/overlays/gke-cpu")
    assert done.returncode == 1
    assert message in done.stderr


@pytest.mark.parametrize("name", OVERLAYS)
def test_objects_have_the_same_names_for_every_model(name: str) -> None:
    """Two models are apart by their namespaces, and no name in the manifests is one of a model."""
    names = {each["metadata"]["name"] for each in overlay(name).values()}
    assert names == {APP}
    namespaces = {each["metadata"].get("namespace") for each in overlay(name).values()}
    assert namespaces == {APP, None}


def fields(content: Any, name: str) -> Iterator[Any]:
    """Yield the values of all fields of this name, at any depth."""
    if isinstance(content, dict):
        yield from ([content[name]] if name in content else [])
        content = list(content.values())
    if isinstance(content, list):
        for each in content:
            yield from fields(each, name)


@pytest.mark.parametrize("name", OVERLAYS)
def test_selectors_match_the_pods(name: str) -> None:
    found = overlay(name)
    if name == "kserve":
        labels = {"serving.kserve.io/inferenceservice": APP}
        assert found["InferenceService"]["metadata"]["name"] == APP
    else:
        labels = found["Deployment"]["spec"]["template"]["metadata"]["labels"]
    selecting = list(fields(found, "matchLabels"))
    if "Service" in found:
        selecting.append(found["Service"]["spec"]["selector"])
    assert len(selecting) == {"kserve": 4, "any": 6}.get(name, 7)
    for each in selecting:
        assert each
        assert each.items() <= labels.items()


@pytest.mark.parametrize("name", LAYERED)
def test_references_between_objects_resolve(name: str) -> None:
    found, variables = overlay(name), environment(pod(name))
    assert variables == environment(BASE)
    ports = {each["name"] for each in pod(name)["containers"][0]["ports"]}
    service = found["Service"]["metadata"]["name"]
    (port,) = found["Service"]["spec"]["ports"]
    assert port["targetPort"] in ports
    target = found["HorizontalPodAutoscaler"]["spec"]["scaleTargetRef"]
    assert found[target["kind"]]["metadata"]["name"] == target["name"]
    # Otherwise an apply would override the autoscaler.
    assert "replicas" not in found["Deployment"]["spec"]
    assert found["ServiceAccount"]["metadata"]["name"] == pod(name)["serviceAccountName"]
    if name == "any":
        (rule,) = found["Ingress"]["spec"]["rules"]
        (path,) = rule["http"]["paths"]
        assert path["backend"] == {"service": {"name": service, "port": {"name": port["name"]}}}
        assert path["path"] == variables["AIP_PREDICT_ROUTE"]
        return
    route = found["HTTPRoute"]["spec"]
    assert route["parentRefs"] == [{"name": found["Gateway"]["metadata"]["name"]}]
    (rule,) = route["rules"]
    assert rule["backendRefs"] == [{"name": service, "port": port["port"]}]
    (match,) = rule["matches"]
    assert match["path"]["value"] == variables["AIP_PREDICT_ROUTE"]
    for kind in ("HealthCheckPolicy", "GCPBackendPolicy"):
        assert found[kind]["spec"]["targetRef"]["name"] == service
    check = found["HealthCheckPolicy"]["spec"]["default"]["config"]["httpHealthCheck"]
    assert check["requestPath"] == variables["AIP_HEALTH_ROUTE"]
    assert str(check["port"]) == variables["AIP_HTTP_PORT"]
    assert {each["port"] for each in found["PodMonitoring"]["spec"]["endpoints"]} <= ports


@pytest.mark.parametrize("name", OVERLAYS)
def test_ports_probes_and_policies_match_the_container_s_variables(name: str) -> None:
    (container,) = pod(name)["containers"]
    ports = {each["name"]: str(each["containerPort"]) for each in container["ports"]}
    variables = environment(pod(name))
    assert ports == {"http": variables["AIP_HTTP_PORT"], "metrics": variables["METRICS_PORT"]}
    for kind in ("startupProbe", "readinessProbe", "livenessProbe"):
        assert container[kind]["httpGet"] == {
            "path": variables["AIP_HEALTH_ROUTE"],
            "port": "http",
        }
    policy = overlay(name)["NetworkPolicy"]["spec"]
    assert policy["policyTypes"] == ["Ingress", "Egress"]
    opened = {str(port["port"]) for rule in policy["ingress"] for port in rule["ports"]}
    assert opened == set(ports.values())
    # No port is open to every address.
    assert all(rule["from"] for rule in policy["ingress"])
    assert policy["egress"] == []


@pytest.mark.parametrize("name", OVERLAYS)
def test_grace_period_covers_the_shutdown(name: str) -> None:
    spec = pod(name)
    pause_s = spec["containers"][0]["lifecycle"]["preStop"]["sleep"]["seconds"]
    shutdown_s = (
        pause_s
        + entrypoint.SHUTDOWN_DELAY_S
        + entrypoint.DRAIN_TIMEOUT_S
        + entrypoint.TORCHSERVE_STOP_TIMEOUT_S
    )
    assert shutdown_s < spec["terminationGracePeriodSeconds"] <= shutdown_s + 10


@pytest.mark.parametrize("name", OVERLAYS)
def test_container_exits_with_a_reason_before_a_probe_fails(name: str) -> None:
    (container,) = pod(name)["containers"]
    assert (
        seconds_to_failure(container["livenessProbe"])
        > supervisor.UNRESPONSIVE_TIMEOUT_S + supervisor.PROBE_TIMEOUT_S
    )
    assert seconds_to_failure(container["startupProbe"]) == supervisor.STARTUP_TIMEOUT_S
    # A pod that is not ready gets no requests long before.
    assert seconds_to_failure(container["readinessProbe"]) <= 5


def seconds_to_failure(probe: Manifest) -> int:
    """Return the seconds until a failing probe takes effect."""
    return int(probe["periodSeconds"] * probe["failureThreshold"])


def test_pod_that_fetches_a_model_has_egress(combined: list[Path]) -> None:
    for folder in combined:
        found = {each["kind"]: each for each in render(folder)}
        egress = found["NetworkPolicy"]["spec"]["egress"]
        assert set(fields(egress, "port")) == {53, 80, 443, 988}


def test_load_balancer_s_timeout_exceeds_the_container_s() -> None:
    default = overlay("gke-cpu")["GCPBackendPolicy"]["spec"]["default"]
    settings = TorchServeConfig(
        archive=ARCHIVE,
        run_dir=Path("unused"),
        layout=choose_cpu_layout(2, None),
        address="unix:unused",
    )
    assert default["timeoutSec"] >= settings.response_timeout_s + 5
    assert default["connectionDraining"]["drainingTimeoutSec"] >= entrypoint.DRAIN_TIMEOUT_S


@pytest.mark.parametrize("name", OVERLAYS)
def test_resource_requests_equal_limits_and_fit_a_worker_per_core(name: str) -> None:
    resource = pod(name)["containers"][0]["resources"]
    limits = resource["limits"]
    assert resource["requests"] == limits
    cores, memory = int(limits["cpu"]), int(parse_quantity(limits["memory"]))
    assert max_cpu_workers(cores, memory) >= cores
    layout = choose_cpu_layout(cores, memory)
    assert (layout.workers, layout.threads) == (2, 1)
    if name not in WITH_GPU:
        # No memory is reserved that cannot be used.
        assert max_cpu_workers(cores + 1, memory) == cores


def test_pods_with_a_gpu_request_it_and_select_nodes_that_have_it() -> None:
    labels = "cloud.google.com/gke"
    shared = {f"{labels}-gpu-sharing-strategy": "time-sharing"}
    expected = {
        "gke-gpu": {},
        "gke-mig": {f"{labels}-gpu-partition-size": "1g.10gb"},
        "gke-time-sharing": shared | {f"{labels}-max-shared-clients-per-gpu": "2"},
    }
    assert expected.keys() == set(WITH_GPU)
    for name, selected in expected.items():
        spec = pod(name)
        assert spec["containers"][0]["resources"]["limits"]["nvidia.com/gpu"] == "1"
        values = {f"{labels}-gpu-driver-version": "latest"} | selected
        assert spec["nodeSelector"].keys() == {f"{labels}-accelerator", *values}
        assert spec["nodeSelector"].items() >= values.items()
        clients = [e["value"] for e in spec["containers"][0]["env"] if e["name"] == "GPU_CLIENTS"]
        assert clients == [selected[name] for name in selected if "shared-clients" in name]
        assert [each["key"] for each in spec["tolerations"]] == ["nvidia.com/gpu"]


def test_part_of_a_gpu_takes_the_place_of_a_gpu_on_any_cluster(combined: list[Path]) -> None:
    (found,) = [each for each in render(combined[0]) if each["kind"] == "Deployment"]
    (container,) = found["spec"]["template"]["spec"]["containers"]
    for kind in ("limits", "requests"):
        names = {each for each in container["resources"][kind] if "/" in each}
        assert names == {"nvidia.com/mig-1g.10gb"}


@pytest.mark.parametrize("name", OVERLAYS)
def test_pod_meets_pod_security_s_restricted_level(name: str) -> None:
    labels = overlay(name)["Namespace"]["metadata"]["labels"]
    assert labels["pod-security.kubernetes.io/enforce"] == "restricted"
    spec = pod(name)
    (container,) = spec["containers"]
    # node.py supports neither init containers nor the host's network, processes and IPC.
    assert not set(spec) - SCHEDULED - INJECTED - KSERVE - POD_FIELDS
    assert [set(each) for each in spec["volumes"]] == [{"name", "emptyDir"}]
    assert spec["securityContext"] | container["securityContext"] == SECURITY
    assert spec["automountServiceAccountToken"] is False
    assert container["image"] == f"{IMAGE}@sha256:{'0' * 64}", "the image is not given by a digest"


def test_kserve_s_pod_differs_only_in_names_and_routes() -> None:
    theirs, found = pod("kserve"), overlay("any")
    (container,) = theirs["containers"]
    names = {"name": CONTAINER["name"], "env": CONTAINER["env"]}
    for kind in ("startupProbe", "readinessProbe", "livenessProbe"):
        names[kind] = container[kind] | {"httpGet": CONTAINER[kind]["httpGet"]}
    assert container | names == CONTAINER
    # The routes of KServe's V1 protocol.
    model = f"/v1/models/{overlay('kserve')['InferenceService']['metadata']['name']}"
    routes = {"AIP_HEALTH_ROUTE": model, "AIP_PREDICT_ROUTE": f"{model}:predict"}
    assert environment(theirs) == environment(BASE) | routes
    for field in set(BASE) - {"containers", "topologySpreadConstraints"}:
        assert theirs[field] == BASE[field], field
    autoscaler = found["HorizontalPodAutoscaler"]["spec"]
    for bound in ("minReplicas", "maxReplicas"):
        assert theirs[bound] == autoscaler[bound]
    target = autoscaler["metrics"][0]["resource"]["target"]
    assert theirs["scaleTarget"] == target["averageUtilization"]
    assert theirs["deploymentStrategy"] == found["Deployment"]["spec"]["strategy"]


def adapter_rule() -> Manifest:
    """Return the Prometheus adapter's rule for the queue wait."""
    values = yaml.safe_load((MANIFESTS / "components/queue-wait/adapter.yaml").read_text())
    (rule,) = values["rules"]["custom"]
    return dict(rule)


def test_autoscaler_uses_the_metric_of_the_adapter_s_rule(combined: list[Path]) -> None:
    found = {each["kind"]: each for each in render(combined[0])}
    (wait,) = fields(found["HorizontalPodAutoscaler"], "pods")
    assert wait["metric"]["name"] == adapter_rule()["name"]["as"]
    assert adapter_rule()["seriesQuery"].startswith("serving_queue_wait_seconds_sum{")
    # In seconds: half of 0.1 s, which users notice.
    assert parse_quantity(wait["target"]["averageValue"]) == 0.05


RULE_TEST = """
evaluation_interval: 15s
tests:
  - interval: 15s
    input_series:
      - {series: 'serving_queue_wait_seconds_sum{namespace="text",pod="busy"}', values: 0+1.5x20}
      - {series: 'serving_queue_wait_seconds_count{namespace="text",pod="busy"}', values: 0+30x20}
      - {series: 'serving_queue_wait_seconds_sum{namespace="text",pod="idle"}', values: 0+0x20}
      - {series: 'serving_queue_wait_seconds_count{namespace="text",pod="idle"}', values: 0+0x20}
    promql_expr_test:
      - expr: QUERY
        eval_time: 3m
        exp_samples: [{labels: '{pod="busy"}', value: 0.05}, {labels: '{pod="idle"}', value: 0}]
"""


def test_adapter_s_rule_computes_the_mean_wait_of_each_pod(tmp_path: Path) -> None:
    require_programs("promtool")
    query = adapter_rule()["metricsQuery"].replace("<<.GroupBy>>", "pod")
    query = query.replace("<<.LabelMatchers>>", 'namespace="text",pod=~"busy|idle"')
    (tmp_path / "rule.yaml").write_text(RULE_TEST.replace("QUERY", json.dumps(query)))
    command = ["promtool", "test", "rules", str(tmp_path / "rule.yaml")]
    done = subprocess.run(command, capture_output=True, text=True, timeout=30, check=False)
    assert done.returncode == 0, done.stdout + done.stderr
