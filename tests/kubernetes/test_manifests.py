"""The manifests: valid, of one piece, and as large and as patient as the container that they start."""

import shutil
import subprocess
from pathlib import Path

import pytest
import yaml

from deploy.gke.overlay import IMAGE
from docker import entrypoint
from serving import machine
from serving.torchserve import Settings
from tests.kubernetes.conftest import BIN, MANIFESTS, OVERLAYS, Thing, overlay, pod, rendered
from tests.kubernetes.node import number
from tests.pictures import ARCHIVE, ROOT
from tests.programs import needs

pytestmark = pytest.mark.xdist_group("kubernetes")
LAYERED = ("any", "gke-cpu", "gke-gpu")
"""Those that have a Deployment, and may take the components."""
BASE = pod("any")
(CONTAINER,) = BASE["containers"]


def validate(*folders: Path) -> subprocess.CompletedProcess[str]:
    """Run the program of make manifests."""
    words = [str(BIN / "python"), "-m", "deploy.gke.validate", *map(str, folders)]
    return subprocess.run(words, cwd=ROOT, capture_output=True, text=True, timeout=120, check=False)


@pytest.fixture
def combined(tmp_path: Path) -> list[Path]:
    """Return a folder for each overlay, with every component on top of it."""
    shutil.copytree(MANIFESTS, tmp_path / "kubernetes")
    folders = []
    for name in LAYERED:
        content = {
            "resources": [f"../kubernetes/overlays/{name}"],
            "components": [f"../kubernetes/components/{each}" for each in ("bucket", "queue-wait")],
        }
        (tmp_path / name).mkdir()
        (tmp_path / name / "kustomization.yaml").write_text(yaml.safe_dump(content))
        folders.append(tmp_path / name)
    return folders


@pytest.mark.full
def test_every_object_of_every_overlay_is_valid_in_three_versions(combined: list[Path]) -> None:
    done = validate(*(MANIFESTS / "overlays" / name for name in OVERLAYS), *combined)
    assert done.returncode == 0, done.stderr
    assert done.stdout.count("valid in Kubernetes 1.35, 1.36, 1.37") == len(OVERLAYS) + len(
        combined
    )


def test_the_versions_are_there_and_not_the_next_older_ones() -> None:
    there = "import kubernetes_validate as k; print(*(k.utils.major_minor(v) for v in k.utils.all_versions()))"
    done = subprocess.run(
        [
            BIN / "python",
            "-c",
            f"{there}; from deploy.gke.validate import VERSIONS; print(*VERSIONS)",
        ],
        cwd=ROOT,
        capture_output=True,
        text=True,
        timeout=30,
        check=True,
    )
    known, wanted = (set(line.split()) for line in done.stdout.splitlines())
    assert wanted <= known
    assert len(wanted) > 1


@pytest.mark.parametrize(
    ("file", "old", "new", "says"),
    [
        ("base/deployment.yaml", "periodSeconds", "periodSecond", "'periodSecond' was unexpected"),
        ("base/autoscaler.yaml", "averageUtilization: 60", "averageUtilization: much", "'much'"),
        (
            "overlays/gke-cpu/gateway.yaml",
            "type: Exact",
            "type: Exactly",
            "'Exactly' is not one of",
        ),
        (
            "overlays/gke-cpu/monitoring.yaml",
            "kind: PodMonitoring",
            "kind: PodWatching",
            "no schema of",
        ),
    ],
)
def test_a_mistake_is_named_with_where_it_stands(
    tmp_path: Path, file: str, old: str, new: str, says: str
) -> None:
    shutil.copytree(MANIFESTS, tmp_path / "kubernetes")
    broken = tmp_path / "kubernetes" / file
    assert old in broken.read_text()
    broken.write_text(broken.read_text().replace(old, new))
    done = validate(tmp_path / "kubernetes/overlays/gke-cpu")
    assert done.returncode == 1
    assert says in done.stderr


@pytest.mark.parametrize("name", OVERLAYS)
def test_whatever_selects_pods_selects_ours(name: str) -> None:
    found = overlay(name)
    if name == "kserve":
        labels = {
            "serving.kserve.io/inferenceservice": found["InferenceService"]["metadata"]["name"]
        }
    else:
        labels = found["Deployment"]["spec"]["template"]["metadata"]["labels"]
    selecting = [
        found["PodDisruptionBudget"]["spec"]["selector"]["matchLabels"],
        found["NetworkPolicy"]["spec"]["podSelector"]["matchLabels"],
        *(each["labelSelector"]["matchLabels"] for each in pod(name)["topologySpreadConstraints"]),
        *([found["Service"]["spec"]["selector"]] if "Service" in found else []),
        *(
            [found["Deployment"]["spec"]["selector"]["matchLabels"]]
            if "Deployment" in found
            else []
        ),
        *(
            [found["PodMonitoring"]["spec"]["selector"]["matchLabels"]]
            if "PodMonitoring" in found
            else []
        ),
    ]
    for each in selecting:
        assert each.items() <= labels.items()
        assert each


@pytest.mark.parametrize("name", LAYERED)
def test_what_names_another_object_names_one_that_is_there(name: str) -> None:
    found = overlay(name)
    ports = {each["name"] for each in pod(name)["containers"][0]["ports"]}
    (door,) = found["Service"]["spec"]["ports"]
    assert door["targetPort"] in ports
    target = found["HorizontalPodAutoscaler"]["spec"]["scaleTargetRef"]
    assert found[target["kind"]]["metadata"]["name"] == target["name"]
    assert found["ServiceAccount"]["metadata"]["name"] == pod(name)["serviceAccountName"]
    if "Ingress" in found:
        (rule,) = found["Ingress"]["spec"]["rules"]
        (path,) = rule["http"]["paths"]
        service = path["backend"]["service"]
        assert (service["name"], service["port"]["name"]) == (
            found["Service"]["metadata"]["name"],
            door["name"],
        )
        assert path["path"] == environ(pod(name))["AIP_PREDICT_ROUTE"]
    if "HTTPRoute" in found:
        route = found["HTTPRoute"]["spec"]
        assert route["parentRefs"] == [{"name": found["Gateway"]["metadata"]["name"]}]
        (rule,) = route["rules"]
        assert rule["backendRefs"] == [
            {"name": found["Service"]["metadata"]["name"], "port": door["port"]}
        ]
        assert [each["path"]["value"] for each in rule["matches"]] == [
            environ(pod(name))["AIP_PREDICT_ROUTE"]
        ]
        for kind in ("HealthCheckPolicy", "GCPBackendPolicy"):
            assert found[kind]["spec"]["targetRef"]["name"] == found["Service"]["metadata"]["name"]
        check = found["HealthCheckPolicy"]["spec"]["default"]["config"]["httpHealthCheck"]
        assert check["requestPath"] == environ(pod(name))["AIP_HEALTH_ROUTE"]
        assert str(check["port"]) == environ(pod(name))["AIP_HTTP_PORT"]
        assert {each["port"] for each in found["PodMonitoring"]["spec"]["endpoints"]} <= ports


def environ(spec: Thing) -> dict[str, str]:
    """Return a pod's variables."""
    return {each["name"]: each["value"] for each in spec["containers"][0]["env"]}


@pytest.mark.parametrize("name", OVERLAYS)
def test_ports_probes_and_policies_follow_the_container_s_variables(name: str) -> None:
    (container,) = pod(name)["containers"]
    ports = {each["name"]: str(each["containerPort"]) for each in container["ports"]}
    said = environ(pod(name))
    assert ports == {"http": said["AIP_HTTP_PORT"], "metrics": said["METRICS_PORT"]}
    for kind in ("startupProbe", "readinessProbe", "livenessProbe"):
        assert container[kind]["httpGet"] == {"path": said["AIP_HEALTH_ROUTE"], "port": "http"}
    policy = overlay(name)["NetworkPolicy"]["spec"]
    assert policy["policyTypes"] == ["Ingress", "Egress"]
    opened = {str(port["port"]) for rule in policy["ingress"] for port in rule["ports"]}
    assert opened == set(ports.values())
    # Nobody reaches a door from anywhere.
    assert all(rule["from"] for rule in policy["ingress"])
    assert policy["egress"] == []
    if name == "any":
        notes = overlay(name)["Deployment"]["spec"]["template"]["metadata"]["annotations"]
        assert notes["prometheus.io/port"] == said["METRICS_PORT"]


@pytest.mark.parametrize("name", OVERLAYS)
def test_the_grace_period_holds_the_whole_way_out(name: str) -> None:
    spec = pod(name)
    pause_s = spec["containers"][0]["lifecycle"]["preStop"]["sleep"]["seconds"]
    way_out = pause_s + entrypoint.LEAVE_S + entrypoint.DRAIN_S + entrypoint.GRACE_S
    assert way_out < spec["terminationGracePeriodSeconds"] <= way_out + 10


@pytest.mark.parametrize("name", OVERLAYS)
def test_the_container_ends_by_itself_with_the_reason_before_it_is_ended(name: str) -> None:
    (container,) = pod(name)["containers"]
    assert lasts(container["livenessProbe"]) > entrypoint.PATIENCE_S + 2 * entrypoint.PROBE_S
    # A pod that is not ready is out of the way long before.
    assert lasts(container["readinessProbe"]) <= 5


def lasts(probe: Thing) -> int:
    """Return the seconds until a probe that fails has its way."""
    return int(probe["periodSeconds"] * probe["failureThreshold"])


def test_a_model_from_a_bucket_has_as_long_as_the_container_gives_it(combined: list[Path]) -> None:
    for folder in combined:
        found = {each["kind"]: each for each in rendered(folder)}
        (container,) = found["Deployment"]["spec"]["template"]["spec"]["containers"]
        assert lasts(container["startupProbe"]) == entrypoint.START_S
        opened = {
            port["port"]
            for rule in found["NetworkPolicy"]["spec"]["egress"]
            for port in rule["ports"]
        }
        assert opened == {53, 80, 443, 988}


def test_a_balancer_waits_longer_than_the_container_does() -> None:
    default = overlay("gke-cpu")["GCPBackendPolicy"]["spec"]["default"]
    settings = Settings(ARCHIVE, Path("unused"), machine.layout(2, None), "unix:unused")
    assert default["timeoutSec"] >= settings.response_timeout_s + 5
    assert default["connectionDraining"]["drainingTimeoutSec"] >= entrypoint.DRAIN_S


@pytest.mark.parametrize("name", OVERLAYS)
def test_requests_are_limits_and_hold_a_worker_for_each_core(name: str) -> None:
    resources = pod(name)["containers"][0]["resources"]
    assert resources["requests"] == resources["limits"]
    cores, memory = int(resources["limits"]["cpu"]), int(number(resources["limits"]["memory"]))
    assert machine.room(cores, memory) >= cores
    layout = machine.layout(cores, memory)
    assert (layout.workers, layout.threads) == (2, 1)
    if name != "gke-gpu":
        # No memory is paid for that nothing may use.
        assert machine.room(cores + 1, memory) == cores


@pytest.mark.parametrize("name", OVERLAYS)
def test_it_asks_for_no_more_than_pod_security_s_restricted_level_allows(name: str) -> None:
    assert (
        overlay(name)["Namespace"]["metadata"]["labels"]["pod-security.kubernetes.io/enforce"]
        == "restricted"
    )
    spec = pod(name)
    (container,) = spec["containers"]
    assert not {"hostNetwork", "hostPID", "hostIPC", "initContainers"} & set(spec)
    assert [set(each) for each in spec["volumes"]] == [{"name", "emptyDir"}]
    assert spec["securityContext"]["runAsNonRoot"] is True
    assert spec["securityContext"]["seccompProfile"] == {"type": "RuntimeDefault"}
    assert container["securityContext"] == {
        "allowPrivilegeEscalation": False,
        "readOnlyRootFilesystem": True,
        "capabilities": {"drop": ["ALL"]},
    }
    assert spec["automountServiceAccountToken"] is False


@pytest.mark.parametrize("name", OVERLAYS)
def test_the_image_is_named_by_a_digest_alone(name: str) -> None:
    assert pod(name)["containers"][0]["image"] == f"{IMAGE}@sha256:{'0' * 64}"


def test_kserve_starts_the_very_same_pod_under_its_own_names() -> None:
    theirs = pod("kserve")
    (container,) = theirs["containers"]
    names = {"name": CONTAINER["name"], "env": CONTAINER["env"]}
    for kind in ("startupProbe", "readinessProbe", "livenessProbe"):
        names[kind] = container[kind] | {"httpGet": CONTAINER[kind]["httpGet"]}
    assert container | names == CONTAINER
    routes = {"AIP_HEALTH_ROUTE", "AIP_PREDICT_ROUTE"}
    ours = environ(BASE)
    assert {key: value for key, value in environ(theirs).items() if key not in routes} == {
        key: value for key, value in ours.items() if key not in routes
    }
    spread = "topologySpreadConstraints"
    for field in set(BASE) - {"containers", spread}:
        assert theirs[field] == BASE[field], field
    autoscaler = overlay("any")["HorizontalPodAutoscaler"]["spec"]
    assert (theirs["minReplicas"], theirs["maxReplicas"]) == (
        autoscaler["minReplicas"],
        autoscaler["maxReplicas"],
    )
    assert (
        theirs["scaleTarget"]
        == autoscaler["metrics"][0]["resource"]["target"]["averageUtilization"]
    )
    assert theirs["deploymentStrategy"] == overlay("any")["Deployment"]["spec"]["strategy"]


@pytest.mark.parametrize("name", LAYERED)
def test_the_container_is_the_same_wherever_it_runs(name: str) -> None:
    (container,) = pod(name)["containers"]
    differs = {"resources", "startupProbe"} if name == "gke-gpu" else set()
    assert {k: v for k, v in container.items() if k not in differs} == {
        k: v for k, v in CONTAINER.items() if k not in differs
    }


def test_the_autoscaler_asks_for_the_metric_that_the_adapter_s_rule_makes(
    combined: list[Path],
) -> None:
    found = {each["kind"]: each for each in rendered(combined[0])}
    (wait,) = (
        each
        for each in found["HorizontalPodAutoscaler"]["spec"]["metrics"]
        if each["type"] == "Pods"
    )
    values = yaml.safe_load((MANIFESTS / "components/queue-wait/adapter.yaml").read_text())
    (rule,) = values["rules"]["custom"]
    assert wait["pods"]["metric"]["name"] == rule["name"]["as"]
    assert rule["seriesQuery"].startswith("serving_queue_wait_seconds_sum{")
    # In seconds: half of the tenth that people notice.
    assert number(wait["pods"]["target"]["averageValue"]) == 0.05


def test_the_adapter_s_rule_is_the_mean_wait_of_each_pod(tmp_path: Path) -> None:
    needs("promtool")
    values = yaml.safe_load((MANIFESTS / "components/queue-wait/adapter.yaml").read_text())
    (rule,) = values["rules"]["custom"]
    labels = 'namespace="digits",pod=~"busy|idle"'
    query = (
        rule["metricsQuery"].replace("<<.LabelMatchers>>", labels).replace("<<.GroupBy>>", "pod")
    )
    named = 'serving_queue_wait_seconds_{}{{namespace="digits",pod="{}"}}'
    rising = {"busy": ("0+1.5x20", "0+30x20"), "idle": ("0+0x20", "0+0x20")}
    test = {
        "interval": "15s",
        "input_series": [
            {"series": named.format(part, name), "values": values}
            for name, both in rising.items()
            for part, values in zip(("sum", "count"), both, strict=True)
        ],
        "promql_expr_test": [
            {
                "expr": query,
                "eval_time": "3m",
                "exp_samples": [
                    {"labels": '{pod="busy"}', "value": 0.05},
                    {"labels": '{pod="idle"}', "value": 0},
                ],
            }
        ],
    }
    (tmp_path / "rule.yaml").write_text(
        yaml.safe_dump({"evaluation_interval": "15s", "tests": [test]})
    )
    done = subprocess.run(
        ["promtool", "test", "rules", "rule.yaml"],
        cwd=tmp_path,
        capture_output=True,
        text=True,
        timeout=30,
        check=False,
    )
    assert done.returncode == 0, done.stdout + done.stderr


def test_there_is_one_of_ours_for_each_zone_and_one_may_go() -> None:
    found = overlay("gke-cpu")
    assert found["HorizontalPodAutoscaler"]["spec"]["minReplicas"] == 3
    assert found["PodDisruptionBudget"]["spec"]["maxUnavailable"] == 1
    assert "replicas" not in found["Deployment"]["spec"], (
        "an apply would undo what the autoscaler decided"
    )
