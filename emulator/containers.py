"""A deployed model's replicas: the real image, started and watched as Vertex AI does it.

Source: "Custom container requirements for prediction" of Vertex AI's documentation.
"""

import ipaddress
import itertools
import logging
import os
import re
import threading
import time
from dataclasses import dataclass, field

import requests
from google.cloud import aiplatform_v1 as v1

from contract.docker import Container, DockerError
from emulator import processes
from emulator.config import EmulatorConfig
from emulator.errors import ApiError, failed_precondition, invalid_argument

HOST = "127.0.0.1"
LABEL = f"rehearsal={os.getpid()}"
HEALTH_TIMEOUT_S, HEALTH_TRIES = 10, 4
POLL_S = 0.1
CRASHES = 3
"""Starts that may fail before the deployment does."""
MACHINE = re.compile(
    r"(e2|n1|n2|n2d|c2|c2d|c3|g2|a2|a3|m1|t2d)-(standard|highcpu|highmem|highgpu|ultragpu|megagpu)-(\d+)(g)?"
)
ARTIFACT_REGISTRY = re.compile(r"^[a-z]+-[a-z]+[0-9]+-docker\.pkg\.dev/")
GIB_PER_CPU = {"standard": 4.0, "highcpu": 1.0, "highmem": 8.0}
log = logging.getLogger("rehearsal")


def bridge_address(config: EmulatorConfig) -> str:
    """Return the address that this machine has on the engine's default network."""
    where = "{{with index .IPAM.Config 0}}{{.Gateway}} {{.Subnet}}{{end}}"
    *gateway, subnet = config.engine("network", "inspect", "bridge", "--format", where).split()
    # An engine that was started for the first time writes the subnet alone down.
    return gateway[0] if gateway else str(next(ipaddress.ip_network(subnet).hosts()))


def pull_image(config: EmulatorConfig, image: str) -> None:
    """Pull an image from the registry, or find it on this machine under its name; raise Refused."""
    name = local_image(config, image)
    try:
        if config.registry and name.startswith(f"{config.registry}/"):
            config.engine("pull", "--quiet", name, timeout_s=600)
        else:
            config.engine("image", "inspect", name)
    except DockerError as error:
        log.info("%s: %s", image, error)
        raise ApiError("NOT_FOUND", f"Image {image} not found.") from None


def local_image(config: EmulatorConfig, image: str) -> str:
    """Return an image's name on this machine: what lies in Artifact Registry lies in the registry here."""
    name = ARTIFACT_REGISTRY.sub(f"{config.registry}/", image) if config.registry else image
    return config.images.get(name, name)


def count_cores(machine: v1.MachineSpec) -> int:
    """Return a machine type's cores; raise Refused where there is no such type."""
    match = MACHINE.fullmatch(machine.machine_type)
    if match is None:
        raise invalid_argument(f'Machine type "{machine.machine_type}" is not supported.')
    return int(match[3]) * (12 if match[4] else 1)


def container_env(
    endpoint: v1.Endpoint, deployed: v1.DeployedModel, model: v1.Model, storage: str
) -> dict[str, str]:
    """Return what Vertex AI sets in a container's environment."""
    spec, machine = model.container_spec, deployed.dedicated_resources.machine_spec
    identity = endpoint.name.rsplit("/", 1)[-1]
    route = f"/v1/endpoints/{identity}/deployedModels/{deployed.id}"
    found = {
        "AIP_HTTP_PORT": str(spec.ports[0].container_port if spec.ports else 8080),
        "AIP_HEALTH_ROUTE": spec.health_route or route,
        "AIP_PREDICT_ROUTE": spec.predict_route or f"{route}:predict",
        "AIP_STORAGE_URI": storage,
        "AIP_MODE": "PREDICTION",
        "AIP_MODE_VERSION": "1.0.0",
        "AIP_FRAMEWORK": "CUSTOM_CONTAINER",
        "AIP_PROJECT_NUMBER": endpoint.name.split("/")[1],
        "AIP_ENDPOINT_ID": identity,
        "AIP_MODEL_NAME": identity,
        "AIP_DEPLOYED_MODEL_ID": deployed.id,
        "AIP_VERSION_NAME": deployed.id,
        "AIP_MACHINE_TYPE": machine.machine_type,
    }
    if machine.accelerator_count:
        found["AIP_ACCELERATOR_TYPE"] = v1.AcceleratorType(machine.accelerator_type).name
    for env in spec.env:
        found[env.name] = expand(env.value, found)
    return found


def expand(text: str, known: dict[str, str]) -> str:
    """Replace $(VAR), as Kubernetes does: $$(VAR) stays $(VAR), an unknown one stays as it is."""
    return re.sub(
        r"\$(\$)?\(([A-Za-z_][A-Za-z0-9_]*)\)",
        lambda match: match[0][1:] if match[1] else known.get(match[2], match[0]),
        text,
    )


@dataclass
class Replica:
    """One container, started again when it ends."""

    config: EmulatorConfig
    model: v1.Model
    env: dict[str, str]
    machine: v1.MachineSpec
    healthy: bool = False
    port: int = 0
    """Where the container's port is published on this machine."""
    _container: Container | None = None
    _over: threading.Event = field(default_factory=threading.Event)
    _lock: threading.Lock = field(default_factory=threading.Lock)
    """Held while the container is ended, or started anew."""

    def run(self) -> None:
        """Start the container."""
        spec, port = self.model.container_spec, self.env["AIP_HTTP_PORT"]
        env = dict(self.env)
        if env["AIP_STORAGE_URI"]:
            env["STORAGE_EMULATOR_HOST"] = self.config.storage
        words = [expand(word, self.env) for word in (*spec.command, *spec.args)]
        entrypoint = [f"--entrypoint={words.pop(0)}"] if spec.command else []
        gib = GIB_PER_CPU.get(self.machine.machine_type.split("-")[1], 8.0) * count_cores(
            self.machine
        )
        self._container = self.config.engine.start(
            local_image(self.config, spec.image_uri),
            f"--label={LABEL}",
            f"--publish={HOST}::{port}",
            f"--memory={gib:g}g",
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
            self.port = 0  # It ended at once; start() finds that out.
        else:
            self.port = int(published.rsplit(":", 1)[1])

    def predict(self, body: bytes, kind: str, timeout_s: float) -> requests.Response:
        """Send a body of a content type to the predict route; raise requests.RequestException."""
        route, headers = self.env["AIP_PREDICT_ROUTE"], {"Content-Type": kind}
        url = f"http://{HOST}:{self.port}{route}"
        return processes.send_request("POST", url, timeout_s, data=body, headers=headers)

    def start(self, cancelled: threading.Event) -> None:
        """Start it and wait until it is healthy, then watch it; raise Refused where it never is."""
        until = time.monotonic() + self.config.ready_timeout_s
        crashes = 0
        self.run()
        while not self._probe_health():
            if cancelled.wait(POLL_S):
                raise ApiError("CANCELLED", "The operation was cancelled.")
            if not self.alive():
                crashes += 1
                if crashes == CRASHES:
                    raise failed_precondition(f"Model server exited unexpectedly. {self._where()}")
                self._again()
            if time.monotonic() > until:
                advice = (
                    "Please validate that your model file or container configuration are valid."
                )
                raise failed_precondition(
                    f"Model server never became ready. {advice} {self._where()}"
                )
        self.healthy = True
        threading.Thread(target=self._watch, daemon=True).start()

    def stop(self) -> None:
        """End it: SIGTERM, and SIGKILL thirty seconds later."""
        with self._lock:
            self._over.set()
            self.healthy = False
            if self._container:
                self.config.engine("stop", "--time", "30", self._container.name)
                self._container.remove()

    def alive(self) -> bool:
        """Return whether the container runs."""
        return self._container is not None and self._container.is_running

    def logs(self) -> str:
        """Return the container's last lines."""
        return self._container.logs(tail=5).strip() if self._container else ""

    def _where(self) -> str:
        return f"Model server logs can be found at Cloud Logging; the container's last lines:\n{self.logs()}"

    def _watch(self) -> None:
        bad = 0
        while not self._over.wait(self.config.probe_interval_s):
            bad = 0 if self._probe_health() else bad + 1
            self.healthy = bad < HEALTH_TRIES
            with self._lock:
                if bad and not self._over.is_set() and not self.alive():
                    self.healthy = False
                    self._again()

    def _again(self) -> None:
        """Start the same container again, as the kubelet does."""
        log.info("restarting a container: %s", self.logs()[-300:])
        if self._container:
            self._container.remove()
        self.run()

    def _probe_health(self) -> bool:
        url = f"http://{HOST}:{self.port}{self.env['AIP_HEALTH_ROUTE']}"
        try:
            return processes.send_request("GET", url, HEALTH_TIMEOUT_S).status_code == 200
        except requests.RequestException:
            return False


@dataclass
class ReplicaPool:
    """A deployed model's replicas, asked in turn."""

    wanted: v1.DedicatedResources
    replicas: list[Replica] = field(default_factory=list)
    _turn: "itertools.count[int]" = field(default_factory=itertools.count)

    def pick(self) -> Replica:
        """Return the next healthy replica; raise Refused."""
        healthy = [replica for replica in self.replicas if replica.healthy]
        if not healthy:
            raise ApiError("UNAVAILABLE", "no healthy upstream")
        return healthy[next(self._turn) % len(healthy)]

    def resize(self, count: int, first: Replica, cancelled: threading.Event) -> None:
        """Start or stop replicas until there are `count`."""
        while len(self.replicas) > count:
            self.replicas.pop().stop()
        while len(self.replicas) < count:
            replica = Replica(first.config, first.model, first.env, first.machine)
            try:
                replica.start(cancelled)
            except BaseException:
                replica.stop()
                raise
            self.replicas.append(replica)

    def stop(self) -> None:
        """End all of them."""
        while self.replicas:
            self.replicas.pop().stop()


def remove_all(config: EmulatorConfig) -> None:
    """Remove every container that this process started, and the names of its registry's images."""
    docker = config.engine
    if left := docker("ps", "--all", "--quiet", "--filter", f"label={LABEL}").split():
        docker("rm", "--force", "--volumes", *left)
    names = docker("images", "--format", "{{.Repository}}:{{.Tag}}").split()
    if ours := [
        name for name in names if config.registry and name.startswith(f"{config.registry}/")
    ]:
        docker("rmi", "--force", *ours)
