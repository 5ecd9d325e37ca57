"""A node emulated by the local Docker engine: it runs a pod's container as its manifest specifies.

A field that is not supported here fails the test, so that none is ignored by mistake.
"""

import time
from dataclasses import dataclass

import requests

from tests.container.conftest import Container, Start, docker
from tests.http import Endpoint
from tests.kubernetes.conftest import Manifest

SCHEDULED = {"serviceAccountName", "nodeSelector", "tolerations", "topologySpreadConstraints"}
INJECTED = {"automountServiceAccountToken", "enableServiceLinks"}
KSERVE = {"minReplicas", "maxReplicas", "scaleMetric", "scaleTarget", "deploymentStrategy"}
"""Fields of a pod for the scheduler, the API server and KServe: no effect here."""
POD_FIELDS = {"containers", "volumes", "securityContext", "terminationGracePeriodSeconds"}
CONTAINER_FIELDS = {"name", "image", "env", "ports", "resources", "securityContext", "volumeMounts"}
PROBE_FIELDS = {"startupProbe", "readinessProbe", "livenessProbe", "lifecycle"}
"""Fields of a container that RunningPod emulates. The command is the image's own."""
SECURITY = {
    "runAsNonRoot": True,
    "runAsUser": 10001,
    "runAsGroup": 10001,
    "readOnlyRootFilesystem": True,
    "allowPrivilegeEscalation": False,
    "capabilities": {"drop": ["ALL"]},
    "seccompProfile": {"type": "RuntimeDefault"},
}
"""The security context of every pod; Docker's default seccomp profile is RuntimeDefault."""
DOCKER_SECURITY = (
    "--user=10001:10001",
    "--read-only",
    "--security-opt=no-new-privileges",
    "--cap-drop=ALL",
)
UNITS = {"Ki": 1 << 10, "Mi": 1 << 20, "Gi": 1 << 30}


def parse_quantity(quantity: str) -> float:
    """Return the value of a Kubernetes quantity such as "2", "500m" or "512Mi"."""
    if quantity[-2:] in UNITS:
        return float(quantity[:-2]) * UNITS[quantity[-2:]]
    return float(quantity[:-1]) / 1000 if quantity.endswith("m") else float(quantity)


def environment(pod: Manifest) -> dict[str, str]:
    """Return the variables of a pod's only container."""
    return {each["name"]: each["value"] for each in pod["containers"][0]["env"]}


def docker_options(pod: Manifest) -> list[str]:
    """Return docker run's options for a pod's only container; fail on an unsupported field."""
    assert not set(pod) - SCHEDULED - INJECTED - KSERVE - POD_FIELDS
    (container,) = pod["containers"]
    assert not set(container) - CONTAINER_FIELDS - PROBE_FIELDS
    assert pod["securityContext"] | container["securityContext"] == SECURITY
    sizes = {
        each["name"]: int(parse_quantity(each["emptyDir"]["sizeLimit"])) for each in pod["volumes"]
    }
    mounts = [
        f"--tmpfs={each['mountPath']}:size={sizes[each['name']]}"
        for each in container["volumeMounts"]
    ]
    limits = container["resources"]["limits"]
    assert set(limits) == {"cpu", "memory", "ephemeral-storage"}
    # Docker cannot limit ephemeral storage: /tmp has its volume's size, and the root is read-only.
    assert parse_quantity(limits["ephemeral-storage"]) > sum(sizes.values())
    memory = int(parse_quantity(limits["memory"]))
    resources = [f"--cpus={limits['cpu']}", f"--memory={memory}", f"--memory-swap={memory}"]
    return [*DOCKER_SECURITY, *mounts, *resources]


@dataclass(frozen=True)
class RunningPod:
    """A pod that was started."""

    container: Container
    pod: Manifest

    @property
    def spec(self) -> Manifest:
        """The specification of its only container."""
        return dict(self.pod["containers"][0])

    def port(self, name: str) -> int:
        """Return the number of a named port."""
        return {each["name"]: int(each["containerPort"]) for each in self.spec["ports"]}[name]

    def endpoint(self) -> Endpoint:
        """Return the URL that predicts."""
        return self.container.endpoint(
            self.port("http"), environment(self.pod)["AIP_PREDICT_ROUTE"]
        )

    def probe(self, kind: str) -> bool:
        """Probe once, like the kubelet: a status from 200 to 399 within the timeout is success."""
        probe = self.spec[kind]
        address = f"{self.container.address}:{self.port(probe['httpGet']['port'])}"
        try:
            return requests.get(
                f"http://{address}{probe['httpGet']['path']}",
                timeout=probe.get("timeoutSeconds", 1),
                allow_redirects=False,
            ).ok
        except requests.RequestException:
            return False

    def wait_until_ready(self) -> float:
        """Probe until the startup and readiness probes succeed; return the seconds it took."""
        started, probe = time.monotonic(), self.spec["startupProbe"]
        for _ in range(probe["failureThreshold"]):
            if self.probe("startupProbe") and self.probe("readinessProbe"):
                return time.monotonic() - started
            time.sleep(probe["periodSeconds"])
        message = f"the startup probe failed after {time.monotonic() - started:.0f} s:\n"
        raise AssertionError(message + self.container.logs())

    def terminate(self) -> int:
        """Stop the pod like the kubelet: preStop, SIGTERM, and SIGKILL after the grace period; return the exit code."""
        grace_s: int = self.pod["terminationGracePeriodSeconds"]
        pause_s = self.spec["lifecycle"]["preStop"]["sleep"]["seconds"]
        time.sleep(pause_s)
        remaining = str(grace_s - pause_s)
        docker("stop", "--time", remaining, self.container.name, timeout_s=grace_s + 30)
        return self.container.exit_code


def run(pod: Manifest, start: Start, network: str) -> RunningPod:
    """Start a pod's container; `start` removes it at the end."""
    return RunningPod(start(f"--network={network}", *docker_options(pod), **environment(pod)), pod)
