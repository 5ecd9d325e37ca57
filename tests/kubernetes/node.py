"""A node of one machine: the local engine runs a pod's container exactly as its manifest says.

A field that is not translated here is refused: none is left out unnoticed.
"""

import contextlib
import http.client
import time
from collections.abc import Iterator
from dataclasses import dataclass

from tests.container.conftest import Container, docker
from tests.http import Endpoint
from tests.kubernetes.conftest import Thing

ELSEWHERE = {
    "serviceAccountName",
    "automountServiceAccountToken",
    "enableServiceLinks",
    "nodeSelector",
    "tolerations",
    "topologySpreadConstraints",
    "terminationGracePeriodSeconds",
    "containers",
    "volumes",
    "securityContext",
    # KServe's own.
    "minReplicas",
    "maxReplicas",
    "scaleMetric",
    "scaleTarget",
    "deploymentStrategy",
}
"""Of a pod: what the scheduler and the API server see to, and what is translated below."""
USED = {
    "name",
    "image",
    "env",
    "ports",
    "resources",
    "startupProbe",
    "readinessProbe",
    "livenessProbe",
    "lifecycle",
    "securityContext",
    "volumeMounts",
}
"""Of a container: what is translated below, or played by Running. No command: the image's own."""
UNITS = {"Ki": 1 << 10, "Mi": 1 << 20, "Gi": 1 << 30}


def number(quantity: str) -> float:
    """Return what a quantity of Kubernetes says: "2", "500m", "512Mi"."""
    if quantity[-2:] in UNITS:
        return float(quantity[:-2]) * UNITS[quantity[-2:]]
    return float(quantity[:-1]) / 1000 if quantity.endswith("m") else float(quantity)


def options(pod: Thing) -> list[str]:
    """Return docker run's words for a pod's one container; fail for a field that is not known here."""
    assert set(pod) <= ELSEWHERE, set(pod) - ELSEWHERE
    (container,) = pod["containers"]
    assert set(container) <= USED, set(container) - USED
    sizes = {each["name"]: int(number(each["emptyDir"]["sizeLimit"])) for each in pod["volumes"]}
    words = _security(pod["securityContext"] | container["securityContext"])
    for each in container["env"]:
        words += ["--env", f"{each['name']}={each['value']}"]
    for each in container["volumeMounts"]:
        words += ["--tmpfs", f"{each['mountPath']}:size={sizes[each['name']]}"]
    return words + _limits(container["resources"]["limits"], sum(sizes.values()))


def _limits(found: Thing, written: int) -> list[str]:
    assert set(found) == {"cpu", "memory", "ephemeral-storage"}
    # The engine has no limit for what is written: /tmp has its volume's, and the root is read-only.
    assert number(found["ephemeral-storage"]) > written
    memory = str(int(number(found["memory"])))
    return ["--cpus", found["cpu"], "--memory", memory, "--memory-swap", memory]


def _security(found: Thing) -> list[str]:
    words = {
        "runAsNonRoot": [],  # the user below is none
        "runAsUser": ["--user", f"{found['runAsUser']}:{found['runAsGroup']}"],
        "runAsGroup": [],
        "readOnlyRootFilesystem": ["--read-only"],
        "allowPrivilegeEscalation": ["--security-opt", "no-new-privileges"],
        "capabilities": ["--cap-drop", "ALL"],
        "seccompProfile": [],  # Docker's own profile is what a runtime's default is
    }
    meant = {
        "runAsNonRoot": True,
        "readOnlyRootFilesystem": True,
        "allowPrivilegeEscalation": False,
        "capabilities": {"drop": ["ALL"]},
        "seccompProfile": {"type": "RuntimeDefault"},
    }
    assert found.items() >= meant.items(), found
    return [word for field in found for word in words[field]]


@dataclass(frozen=True)
class Running:
    """A pod that was started."""

    container: Container
    pod: Thing

    @property
    def spec(self) -> Thing:
        """Its one container, as the manifest has it."""
        return dict(self.pod["containers"][0])

    @property
    def environ(self) -> dict[str, str]:
        """Its container's variables."""
        return {each["name"]: each["value"] for each in self.spec["env"]}

    def port(self, name: str) -> int:
        """Return a port's number by its name."""
        return {each["name"]: int(each["containerPort"]) for each in self.spec["ports"]}[name]

    def endpoint(self) -> Endpoint:
        """Return the URL that predicts."""
        return self.container.endpoint(self.port("http"), self.environ["AIP_PREDICT_ROUTE"])

    def probe(self, kind: str) -> bool:
        """Ask once, as the kubelet does: an answer from 200 to 399 within the probe's time is success."""
        found = self.spec[kind]
        port, wait_s = self.port(found["httpGet"]["port"]), found.get("timeoutSeconds", 1)
        connection = http.client.HTTPConnection(self.container.address, port, timeout=wait_s)
        try:
            connection.request("GET", found["httpGet"]["path"])
            return 200 <= connection.getresponse().status < 400
        except OSError:
            return False
        finally:
            connection.close()

    def start_up(self) -> float:
        """Probe until the startup probe and then the readiness probe succeed; return how many seconds that took."""
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
        pause_s: int = (
            self.spec.get("lifecycle", {}).get("preStop", {}).get("sleep", {}).get("seconds", 0)
        )
        pause_s = min(pause_s, grace_s)
        time.sleep(pause_s)
        docker(
            "stop", "--time", str(grace_s - pause_s), self.container.name, timeout_s=grace_s + 30
        )
        return int(self.container.state("ExitCode"))


def run(pod: Thing, image: str, network: str) -> Running:
    """Start a pod's container; whoever calls removes it."""
    words = ["run", "--detach", "--network", network, *options(pod), image]
    return Running(Container(docker(*words).strip().splitlines()[-1]), pod)


@contextlib.contextmanager
def running(pod: Thing, image: str, network: str) -> Iterator[Running]:
    """Start a pod's container, and remove it at the end."""
    started = run(pod, image, network)
    try:
        yield started
    finally:
        docker("rm", "--force", started.container.name)
