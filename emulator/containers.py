"""The replicas of a deployed model: containers of the real image, started and probed as Vertex AI does.

Source: "Custom container requirements for prediction" in Vertex AI's documentation.
"""

import ipaddress
import logging
import math
import os
import re
import threading
import time
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import NamedTuple

import requests
from google.cloud import aiplatform_v1 as v1

from contract.docker import Container, DockerError
from emulator import images, machines, processes
from emulator.config import EmulatorConfig
from emulator.errors import ApiError, failed_precondition

HOST = "127.0.0.1"
JSON_TYPE = {"Content-Type": "application/json"}
LABEL = f"emulator={os.getpid()}"
PROBE_TIMEOUT_S, UNHEALTHY_THRESHOLD = 10, 4
"""A replica is unhealthy after this many failed probes in a row."""
POLL_S = 0.1
MAX_CRASHES = 3
"""Number of failed starts after which the deployment fails."""
STOP_TIMEOUT_S = 30
log = logging.getLogger("emulator")


def bridge_address(config: EmulatorConfig) -> str:
    """Return this machine's address on the Docker engine's default network."""
    template = "{{with index .IPAM.Config 0}}{{.Gateway}} {{.Subnet}}{{end}}"
    *gateway, subnet = config.engine("network", "inspect", "bridge", "--format", template).split()
    # After its first start an engine reports the subnet only.
    return gateway[0] if gateway else str(next(ipaddress.ip_network(subnet).hosts()))


def container_env(
    endpoint: v1.Endpoint, deployed: v1.DeployedModel, model: v1.Model, artifacts_uri: str
) -> dict[str, str]:
    """Return the environment variables that Vertex AI sets in a container."""
    spec, machine = model.container_spec, deployed.dedicated_resources.machine_spec
    endpoint_id = endpoint.name.rsplit("/", 1)[-1]
    route = f"/v1/endpoints/{endpoint_id}/deployedModels/{deployed.id}"
    env = {
        "AIP_HTTP_PORT": str(spec.ports[0].container_port if spec.ports else 8080),
        "AIP_HEALTH_ROUTE": spec.health_route or route,
        "AIP_PREDICT_ROUTE": spec.predict_route or f"{route}:predict",
        "AIP_STORAGE_URI": artifacts_uri,
        "AIP_MODE": "PREDICTION",
        "AIP_MODE_VERSION": "1.0.0",
        "AIP_FRAMEWORK": "CUSTOM_CONTAINER",
        "AIP_PROJECT_NUMBER": endpoint.name.split("/")[1],
        "AIP_ENDPOINT_ID": endpoint_id,
        "AIP_MODEL_NAME": endpoint_id,
        "AIP_DEPLOYED_MODEL_ID": deployed.id,
        "AIP_VERSION_NAME": deployed.id,
        "AIP_MACHINE_TYPE": machine.machine_type,
    }
    if machine.accelerator_count:
        env["AIP_ACCELERATOR_TYPE"] = v1.AcceleratorType(machine.accelerator_type).name
    for variable in spec.env:
        env[variable.name] = expand_variables(variable.value, env)
    return env


def expand_variables(text: str, env: dict[str, str]) -> str:
    """Replace $(VAR) as Kubernetes does: $$(VAR) becomes $(VAR), an undefined one is kept."""
    return re.sub(
        r"\$(\$)?\(([A-Za-z_][A-Za-z0-9_]*)\)",
        lambda match: match[0][1:] if match[1] else env.get(match[2], match[0]),
        text,
    )


class ContainerRequest(NamedTuple):
    """A request for a deployed model."""

    body: bytes
    headers: Mapping[str, str]
    is_streamed: bool = False
    """Whether the response is forwarded as it arrives; then the caller closes it."""
    path: str = ""
    """The path of :invoke in the container; by default its predict route."""
    deployed_id: str = ""
    """The deployed model; by default the traffic split chooses one."""


@dataclass
class Replica:
    """One container, restarted when it exits."""

    config: EmulatorConfig
    model: v1.Model
    env: dict[str, str]
    machine: v1.MachineSpec
    healthy: bool = False
    port: int = 0
    """Port of this machine at which the container's port is published; 0 if it exited."""
    _container: Container | None = None
    _was_ready: bool = False
    _stopped: threading.Event = field(default_factory=threading.Event)
    _lock: threading.Lock = field(default_factory=threading.Lock)
    """Held while the container is stopped or restarted."""

    def start(self, cancelled: threading.Event) -> None:
        """Start the container, wait until it is healthy, and keep probing it; raise ApiError."""
        own = self.model.container_spec.deployment_timeout
        timeout_s = min(self.config.ready_timeout_s, own.total_seconds() or math.inf)
        deadline = time.monotonic() + timeout_s
        crashes = 0
        self._run()
        while not self._probe():
            if cancelled.wait(POLL_S):
                raise ApiError("CANCELLED", "The operation was cancelled.")
            if not self.is_running():
                crashes += 1
                if crashes == MAX_CRASHES:
                    raise self._failure("Model server exited unexpectedly.")
                self._restart()
            if time.monotonic() > deadline:
                raise self._failure(
                    "Model server never became ready. "
                    "Please validate that your model file or container configuration are valid."
                )
        self.healthy = self._was_ready = True
        threading.Thread(target=self._watch, daemon=True).start()

    def stop(self) -> None:
        """Stop the container: SIGTERM, and SIGKILL after STOP_TIMEOUT_S, or at once if it was never ready."""
        with self._lock:
            self._stopped.set()
            self.healthy = False
            if self._container:
                self.config.engine(
                    "stop", "--time", str(STOP_TIMEOUT_S * self._was_ready), self._container.name
                )
                self._container.remove()

    def release(self) -> None:
        """Stop watching the container, which the caller removes."""
        with self._lock:
            self._stopped.set()

    def predict(self, request: ContainerRequest, timeout_s: float) -> requests.Response:
        """Send a request to the container; raise requests.RequestException."""
        url = f"http://{HOST}:{self.port}{request.path or self.env['AIP_PREDICT_ROUTE']}"
        return processes.send_request(
            "POST",
            url,
            timeout_s,
            is_streamed=request.is_streamed,
            data=request.body,
            headers=request.headers,
        )

    def is_running(self) -> bool:
        """Return whether the container runs."""
        return self._container is not None and self._container.is_running

    def _run(self) -> None:
        spec, port = self.model.container_spec, self.env["AIP_HTTP_PORT"]
        env = dict(self.env)
        if env["AIP_STORAGE_URI"]:
            env["STORAGE_EMULATOR_HOST"] = self.config.storage_url
        words = [expand_variables(word, self.env) for word in (*spec.command, *spec.args)]
        entrypoint = [f"--entrypoint={words.pop(0)}"] if spec.command else []
        self._container = self.config.engine.start(
            images.local_image(self.config, spec.image_uri),
            f"--label={LABEL}",
            f"--publish={HOST}::{port}",
            f"--memory={machines.memory_gib(self.machine.machine_type):g}g",
            f"--shm-size={spec.shared_memory_size_mb or 64}m",
            *entrypoint,
            env=env,
            command=words,
        )
        try:
            published = self.config.engine("port", self._container.name, port).splitlines()[0]
        except DockerError:
            if self._container.is_running:
                raise
            self.port = 0  # it exited at once, which start() handles
        else:
            self.port = int(published.rsplit(":", 1)[1])

    def _restart(self) -> None:
        """Replace the container by a new one, as the kubelet does."""
        log.info("restarting a container: %s", self._last_lines()[-300:])
        if self._container:
            self._container.remove()
        self._run()

    def _watch(self) -> None:
        failures = 0
        while not self._stopped.wait(self.config.probe_interval_s):
            failures = 0 if self._probe() else failures + 1
            self.healthy = failures < UNHEALTHY_THRESHOLD
            with self._lock:
                if failures and not self._stopped.is_set() and not self.is_running():
                    self.healthy = False
                    self._restart()

    def _probe(self) -> bool:
        """Run the health probe: the command or the request of the model, by default its health route."""
        probe = self.model.container_spec.health_probe
        if probe.exec_.command:
            return self._run_probe(probe)
        url = f"http://{HOST}:{self.port}{probe.http_get.path or self.env['AIP_HEALTH_ROUTE']}"
        try:
            return processes.send_request("GET", url, PROBE_TIMEOUT_S).status_code == 200
        except requests.RequestException:
            return False

    def _run_probe(self, probe: v1.Probe) -> bool:
        if self._container is None:
            return False
        try:
            self._container.exec(*probe.exec_.command)
        except DockerError:
            return False
        return True

    def _last_lines(self) -> str:
        return self._container.logs(tail=5).strip() if self._container else ""

    def _failure(self, message: str) -> ApiError:
        hint = "Model server logs can be found at Cloud Logging; the container's last lines:"
        return failed_precondition(f"{message} {hint}\n{self._last_lines()}")
