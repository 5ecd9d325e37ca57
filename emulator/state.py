"""What the stand-in keeps, in memory: the resources, under Google's own names, and how strict it is."""

import re
import threading
from dataclasses import dataclass, field
from typing import Any

from google.cloud import aiplatform_v1 as v1
from google.protobuf.timestamp_pb2 import Timestamp

from emulator.config import EmulatorConfig
from emulator.errors import not_found
from emulator.faults import Faults


@dataclass
class State:
    """Every resource of every project. Hold `lock` while reading or changing more than one."""

    config: EmulatorConfig
    faults: Faults = field(default_factory=Faults)
    lock: threading.RLock = field(default_factory=threading.RLock)
    models: dict[str, dict[str, v1.Model]] = field(default_factory=dict)
    """Name → version → model."""
    endpoints: dict[str, v1.Endpoint] = field(default_factory=dict)
    pools: dict[tuple[str, str], Any] = field(default_factory=dict)
    """(endpoint, deployed model's ID) → the replicas that serve it."""
    operations: dict[str, Any] = field(default_factory=dict)
    batch_jobs: dict[str, v1.BatchPredictionJob] = field(default_factory=dict)
    pipeline_jobs: dict[str, v1.PipelineJob] = field(default_factory=dict)
    schedules: dict[str, v1.Schedule] = field(default_factory=dict)
    repositories: dict[str, Any] = field(default_factory=dict)
    builds: dict[str, Any] = field(default_factory=dict)
    uploads: dict[str, bytes] = field(default_factory=dict)
    """Functions' sources, zipped, by the object's name."""
    functions: dict[str, Any] = field(default_factory=dict)
    services: dict[str, Any] = field(default_factory=dict)
    """Function → the process that answers for it."""
    iam_policies: dict[str, Any] = field(default_factory=dict)
    """Service → its IAM policy."""
    predictions: list[Any] = field(default_factory=list)
    """What Cloud Monitoring knows: one entry a prediction."""
    step_env: tuple[str, ...] = ()
    """NAME=value pairs with which a build's steps come here and not to Google."""
    url: str = ""
    """Of the control plane."""
    dedicated_host: str = ""
    """host:port of the dedicated endpoints."""
    _last_id: int = 1000

    def next_id(self) -> str:
        """Return a number that nothing else has."""
        with self.lock:
            self._last_id += 1
            return str(self._last_id)


def now() -> Timestamp:
    """Return this moment as Google writes it."""
    stamp = Timestamp()
    stamp.GetCurrentTime()
    stamp.nanos -= stamp.nanos % 1000
    return stamp


def project_number(project: str) -> str:
    """Return a project's number; one is made up for every ID that is asked for."""
    return (
        project
        if project.isdigit()
        else str(10**11 + sum(ord(c) * 31**i for i, c in enumerate(project)) % 10**10)
    )


def canonical_name(name: str) -> str:
    """Return a resource's name with the project's number in it, as Google keeps them."""
    return re.sub(r"^projects/([^/]+)", lambda match: f"projects/{project_number(match[1])}", name)


def location(name: str) -> str:
    """Return the region in a name."""
    return name.split("/")[3]


def find_model(state: State, name: str) -> v1.Model:
    """Return the version that NAME, NAME@VERSION or NAME@ALIAS means; raise Refused."""
    bare, _, wanted = canonical_name(name).partition("@")
    versions = state.models.get(bare)
    if versions:
        for version in versions.values():
            if wanted == version.version_id or (wanted or "default") in version.version_aliases:
                return version
    raise not_found("Model", name)


def find_deployments(state: State, bare: str, version: str | None = None) -> list[tuple[str, str]]:
    """Return the (endpoint, deployed model's ID) pairs that serve a model, or one version of it."""
    return [
        (endpoint.name, deployed.id)
        for endpoint in state.endpoints.values()
        for deployed in endpoint.deployed_models
        if deployed.model.partition("@")[0] == bare and version in (None, deployed.model_version_id)
    ]
