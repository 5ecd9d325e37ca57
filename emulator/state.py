"""The emulator's state, in memory: the resources of all projects under Google's resource names."""

import re
import threading
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, NamedTuple

from google.cloud import aiplatform_v1 as v1
from google.cloud import artifactregistry_v1 as ar
from google.cloud import functions_v2 as gf
from google.cloud.devtools import cloudbuild_v1 as cb
from google.iam.v1 import policy_pb2
from google.protobuf.timestamp_pb2 import Timestamp

from emulator.config import EmulatorConfig
from emulator.errors import not_found
from emulator.faults import Faults
from emulator.replica_pool import ReplicaPool

if TYPE_CHECKING:
    from emulator.functions import FunctionProcess
    from emulator.operations import Operation


class PredictionRecord(NamedTuple):
    """The part of one prediction that Cloud Monitoring records."""

    time_s: float
    """Unix time of the response."""
    endpoint_id: str
    deployed_model_id: str
    status_code: int
    latency_ms: float


class FailedStep(NamedTuple):
    """A step of an emulated build that failed."""

    name: str
    log: str


@dataclass
class State:
    """All resources. Hold `lock` while reading or changing more than one."""

    config: EmulatorConfig
    faults: Faults = field(default_factory=Faults)
    lock: threading.RLock = field(default_factory=threading.RLock)
    models: dict[str, dict[str, v1.Model]] = field(default_factory=dict)
    """Name → version → model."""
    model_labels: dict[str, dict[str, str]] = field(default_factory=dict)
    """Name → labels of the model, beside those of its versions."""
    endpoints: dict[str, v1.Endpoint] = field(default_factory=dict)
    pools: dict[tuple[str, str], ReplicaPool] = field(default_factory=dict)
    """(endpoint, deployed model's ID) → its replicas."""
    operations: dict[str, "Operation"] = field(default_factory=dict)
    batch_jobs: dict[str, v1.BatchPredictionJob] = field(default_factory=dict)
    pipeline_jobs: dict[str, v1.PipelineJob] = field(default_factory=dict)
    schedules: dict[str, v1.Schedule] = field(default_factory=dict)
    repositories: dict[str, ar.Repository] = field(default_factory=dict)
    builds: dict[str, cb.Build] = field(default_factory=dict)
    build_logs: dict[str, list[str]] = field(default_factory=dict)
    """Build's ID → the lines in Cloud Logging."""
    failed_steps: list[FailedStep] = field(default_factory=list)
    built_images: list[str] = field(default_factory=list)
    """Names of the images that steps of builds left in the Docker engine."""
    uploads: dict[str, bytes] = field(default_factory=dict)
    """Object name → zipped source of a function."""
    functions: dict[str, gf.Function] = field(default_factory=dict)
    function_processes: dict[str, "FunctionProcess"] = field(default_factory=dict)
    iam_policies: dict[str, policy_pb2.Policy] = field(default_factory=dict)
    """Cloud Run service → its policy."""
    predictions: list[PredictionRecord] = field(default_factory=list)
    step_env: tuple[str, ...] = ()
    """NAME=value pairs that direct the steps of a build to the emulator."""
    url: str = ""
    """URL of the control plane."""
    dedicated_host: str = ""
    """host:port of the dedicated endpoints."""
    _last_id: int = 1000

    def next_id(self) -> str:
        """Return a number that no other resource has."""
        with self.lock:
            self._last_id += 1
            return str(self._last_id)


def now() -> Timestamp:
    """Return the current time with Google's precision, microseconds."""
    timestamp = Timestamp()
    timestamp.GetCurrentTime()
    timestamp.nanos -= timestamp.nanos % 1000
    return timestamp


def project_number(project: str) -> str:
    """Return the number of a project. Every ID is accepted: the number is computed from it."""
    if project.isdigit():
        return project
    return str(10**11 + sum(ord(c) * 31**i for i, c in enumerate(project)) % 10**10)


def canonical_name(name: str) -> str:
    """Return a resource's name with the project's number in place of its ID, as Google stores it."""
    return re.sub(r"^projects/([^/]+)", lambda match: f"projects/{project_number(match[1])}", name)


def get_region(name: str) -> str:
    """Return the region in a resource's name."""
    return name.split("/")[3]


def find_model(state: State, name: str) -> v1.Model:
    """Return the model version named NAME, NAME@VERSION or NAME@ALIAS; raise ApiError."""
    model_name, _, version_or_alias = canonical_name(name).partition("@")
    for version in state.models.get(model_name, {}).values():
        if (
            version_or_alias == version.version_id
            or (version_or_alias or "default") in version.version_aliases
        ):
            return version
    raise not_found("Model", name)


def find_deployments(
    state: State, model_name: str, version_id: str | None = None
) -> list[tuple[str, str]]:
    """Return (endpoint, deployed model's ID) of each deployment of a model, or of one version."""
    return [
        (endpoint.name, deployed.id)
        for endpoint in state.endpoints.values()
        for deployed in endpoint.deployed_models
        if deployed.model.partition("@")[0] == model_name
        and version_id in (None, deployed.model_version_id)
    ]
