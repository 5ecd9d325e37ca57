"""What the stand-in keeps, in memory: the resources, under Google's own names, and how strict it is."""

import re
import threading
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from google.cloud import aiplatform_v1 as v1
from google.protobuf.timestamp_pb2 import Timestamp

from contract.docker import Docker
from emulator.errors import not_found
from emulator.faults import Faults


@dataclass(frozen=True)
class EmulatorConfig:
    """How strict this Google is; the defaults are the documented ones but for the patience."""

    docker: str = "docker"
    storage: str = ""
    """URL of the storage emulator, as clients on this machine and containers reach it."""
    registry: str = ""
    """host:port of the registry that stands for Artifact Registry."""
    images: Mapping[str, str] = field(default_factory=dict)
    """Names that mean an image on this machine: name → ID."""
    substitutions: Mapping[str, str] = field(default_factory=dict)
    """Values that Cloud Build takes in place of a build's own, if it has them."""
    patience_s: float = 180
    """How long a model may take to get healthy. Google waits some 20 minutes."""
    cpus: int = 42
    """The quota custom_model_serving_cpus."""
    accelerators: int = 0
    """The quota of each kind of accelerator; a new project has none."""
    shared_bytes: int = 1_572_864
    dedicated_bytes: int = 10 * 2**20
    shared_s: float = 60
    dedicated_s: float = 600
    probe_s: float = 10
    """How often the container of a deployed model is probed."""

    @property
    def engine(self) -> Docker:
        """The engine that runs containers."""
        return Docker(self.docker)


@dataclass
class State:
    """Every resource of every project. Hold `lock` while reading or changing more than one."""

    rules: EmulatorConfig
    faults: Faults = field(default_factory=Faults)
    lock: threading.RLock = field(default_factory=threading.RLock)
    models: dict[str, dict[str, v1.Model]] = field(default_factory=dict)
    """Name → version → model."""
    endpoints: dict[str, v1.Endpoint] = field(default_factory=dict)
    pools: dict[tuple[str, str], Any] = field(default_factory=dict)
    """(endpoint, deployed model's ID) → the replicas that serve it."""
    operations: dict[str, Any] = field(default_factory=dict)
    jobs: dict[str, v1.BatchPredictionJob] = field(default_factory=dict)
    pipelines: dict[str, v1.PipelineJob] = field(default_factory=dict)
    schedules: dict[str, v1.Schedule] = field(default_factory=dict)
    repositories: dict[str, Any] = field(default_factory=dict)
    builds: dict[str, Any] = field(default_factory=dict)
    uploads: dict[str, bytes] = field(default_factory=dict)
    """Functions' sources, zipped, by the object's name."""
    functions: dict[str, Any] = field(default_factory=dict)
    services: dict[str, Any] = field(default_factory=dict)
    """Function → the process that answers for it."""
    invokers: dict[str, Any] = field(default_factory=dict)
    """Service → its IAM policy."""
    answered: list[Any] = field(default_factory=list)
    """What Cloud Monitoring knows: one entry a prediction."""
    step_env: tuple[str, ...] = ()
    """NAME=value pairs with which a build's steps come here and not to Google."""
    url: str = ""
    """Of the control plane."""
    dedicated: str = ""
    """host:port of the dedicated endpoints."""
    _serial: int = 1000

    def serial(self) -> str:
        """Return a number that nothing else has."""
        with self.lock:
            self._serial += 1
            return str(self._serial)


def now() -> Timestamp:
    """Return this moment as Google writes it."""
    stamp = Timestamp()
    stamp.GetCurrentTime()
    stamp.nanos -= stamp.nanos % 1000
    return stamp


def number(project: str) -> str:
    """Return a project's number; one is made up for every ID that is asked for."""
    return (
        project
        if project.isdigit()
        else str(10**11 + sum(ord(c) * 31**i for i, c in enumerate(project)) % 10**10)
    )


def canonical(name: str) -> str:
    """Return a resource's name with the project's number in it, as Google keeps them."""
    return re.sub(r"^projects/([^/]+)", lambda match: f"projects/{number(match[1])}", name)


def location(name: str) -> str:
    """Return the region in a name."""
    return name.split("/")[3]


def model_of(world: State, name: str) -> v1.Model:
    """Return the version that NAME, NAME@VERSION or NAME@ALIAS means; raise Refused."""
    bare, _, wanted = canonical(name).partition("@")
    versions = world.models.get(bare)
    if versions:
        for version in versions.values():
            if wanted == version.version_id or (wanted or "default") in version.version_aliases:
                return version
    raise not_found("Model", name)


def in_use(world: State, bare: str, version: str | None = None) -> list[tuple[str, str]]:
    """Return the (endpoint, deployed model's ID) pairs that serve a model, or one version of it."""
    return [
        (endpoint.name, deployed.id)
        for endpoint in world.endpoints.values()
        for deployed in endpoint.deployed_models
        if deployed.model.partition("@")[0] == bare and version in (None, deployed.model_version_id)
    ]
