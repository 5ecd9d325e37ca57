"""A node played by the local Docker engine: it runs a pod's container exactly as its manifest says.

A field that is not translated here is refused, so that none is left out unnoticed.
"""

import time
from dataclasses import dataclass

import requests

from tests.container.conftest import Container, Start, docker
from tests.http import Endpoint
from tests.kubernetes.conftest import Thing

SCHEDULED = {"serviceAccountName", "nodeSelector", "tolerations", "topologySpreadConstraints"}
INJECTED = {"automountServiceAccountToken", "enableServiceLinks"}
KSERVE = {"minReplicas", "maxReplicas", "scaleMetric", "scaleTarget", "deploymentStrategy"}
"""Fields of a pod that the scheduler, the API server and KServe see to."""
POD = {"containers", "volumes", "securityContext", "terminationGracePeriodSeconds"}
CONTAINER = {"name", "image", "env", "ports", "resources", "securityContext", "volumeMounts"}
PLAYED = {"startupProbe", "readinessProbe", "livenessProbe", "lifecycle"}
"""Fields of a container that Running plays. There is no command: it is the image's own."""
SECURITY = {
    "runAsNonRoot": True,
    "runAsUser": 10001,
    "runAsGroup": 10001,
    "readOnlyRootFilesystem": True,
    "allowPrivilegeEscalation": False,
    "capabilities": {"drop": ["ALL"]},
    "seccompProfile": {"type": "RuntimeDefault"},
}
"""The security context of every pod here; Docker's own seccomp profile is a runtime's default."""
DOCKER_SECURITY = (
    "--user=10001:10001",
    "--read-only",
    "--security-opt=no-new-privileges",
    "--cap-drop=ALL",
)
UNITS = {"Ki": 1 << 10, "Mi": 1 << 20, "Gi": 1 << 30}


def number(quantity: str) -> float:
    """Return the value of a quantity of Kubernetes: "2", "500m", "512Mi"."""
    if quantity[-2:] in UNITS:
        return float(quantity[:-2]) * UNITS[quantity[-2:]]
    return float(quantity[:-1]) / 1000 if quantity.endswith("m") else float(quantity)


def environ(pod: Thing) -> dict[str, str]:
    """Return the variables of a pod's one container."""
    return {each["name"]: each["value"] for each in pod["containers"][0]["env"]}


def options(pod: Thing) -> list[str]:
    """Return docker run's options for a pod's one container; fail for a field that is not known here."""
    assert not set(pod) - SCHEDULED - INJECTED - KSERVE - POD
    (container,) = pod["containers"]
    assert not set(container) - CONTAINER - PLAYED
    assert pod["securityContext"] | container["securityContext"] == SECURITY
    sizes = {each["name"]: int(number(each["emptyDir"]["sizeLimit"])) for each in pod["volumes"]}
    mounts = [
        f"--tmpfs={each['mountPath']}:size={sizes[each['name']]}"
        for each in container["volumeMounts"]
    ]
    limits = container["resources"]["limits"]
    assert set(limits) == {"cpu", "memory", "ephemeral-storage"}
    # The engine does not limit what is written: /tmp has its volume's size, and the root is read-only.
    assert number(limits["ephemeral-storage"]) > sum(sizes.values())
    memory = int(number(limits["memory"]))
    sized = [f"--cpus={limits['cpu']}", f"--memory={memory}", f"--memory-swap={memory}"]
    return [*DOCKER_SECURITY, *mounts, *sized]


@dataclass(frozen=True)
class Running:
    """A pod that was started."""

    container: Container
    pod: Thing

    @property
    def spec(self) -> Thing:
        """Its one container, as the manifest has it."""
        return dict(self.pod["containers"][0])

    def port(self, name: str) -> int:
        """Return a port's number by its name."""
        return {each["name"]: int(each["containerPort"]) for each in self.spec["ports"]}[name]

    def endpoint(self) -> Endpoint:
        """Return the URL that predicts."""
        return self.container.endpoint(self.port("http"), environ(self.pod)["AIP_PREDICT_ROUTE"])

    def probe(self, kind: str) -> bool:
        """Probe once, as the kubelet does: an answer from 200 to 399 within the probe's time is success."""
        found = self.spec[kind]
        where = f"{self.container.address}:{self.port(found['httpGet']['port'])}"
        try:
            return requests.get(
                f"http://{where}{found['httpGet']['path']}",
                timeout=found.get("timeoutSeconds", 1),
                allow_redirects=False,
            ).ok
        except requests.RequestException:
            return False

    def start_up(self) -> float:
        """Probe until the startup probe and then the readiness probe succeed; return the seconds that took."""
        began, found = time.monotonic(), self.spec["startupProbe"]
        for _ in range(found["failureThreshold"]):
            if self.probe("startupProbe") and self.probe("readinessProbe"):
                return time.monotonic() - began
            time.sleep(found["periodSeconds"])
        message = f"the kubelet gives up after {time.monotonic() - began:.0f} s:\n"
        raise AssertionError(message + self.container.logs())

    def terminate(self) -> int:
        """Do what the kubelet does to a pod that is deleted; return the container's exit code."""
        grace_s: int = self.pod["terminationGracePeriodSeconds"]
        pause_s = self.spec["lifecycle"]["preStop"]["sleep"]["seconds"]
        time.sleep(pause_s)
        left = str(grace_s - pause_s)
        docker("stop", "--time", left, self.container.name, timeout_s=grace_s + 30)
        return self.container.exit_code


def run(pod: Thing, start: Start, network: str) -> Running:
    """Start a pod's container; `start` removes it at the end."""
    return Running(start(f"--network={network}", *options(pod), **environ(pod)), pod)
