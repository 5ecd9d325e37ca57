"""Vertex AI: endpoints, models and their versions, predictions, batch prediction jobs."""

import time
from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import datetime
from typing import Any

import requests
from google.api_core import exceptions

from deploy.cost import estimate_cost
from deploy.error_messages import PREDICTING
from deploy.errors import UserError
from deploy.fields.container import MAX_TIMEOUT_S
from deploy.gcp.client import TIMEOUT_S, Client, Json
from deploy.plan import DEPLOYMENT_TIME, DeployedModel, EndpointState, Machine, Replicas
from deploy.settings import Settings

CPU_METRIC = "aiplatform.googleapis.com/prediction/online/cpu/utilization"
GPU_METRIC = "aiplatform.googleapis.com/prediction/online/accelerator/duty_cycle"

DONE = ("SUCCEEDED", "FAILED", "CANCELLED", "EXPIRED", "PARTIALLY_SUCCEEDED")
"""States of a batch prediction job that has ended."""
EXTRA_TIMEOUT_S = 10
"""How much longer than the container a dedicated endpoint waits, so that the container's error arrives."""
REPLICA_FIELDS = ("minReplicaCount", "maxReplicaCount", "autoscalingMetricSpecs")
CONTAINER_FIELDS = ("imageUri", "ports", "healthRoute", "predictRoute", "env", "sharedMemorySizeMb")
"""What `container_spec` sets."""


@dataclass(frozen=True, kw_only=True)
class BatchRequest:
    """A batch prediction job to start."""

    version: str
    source: str
    """The gs:// URI of JSON lines."""
    output: str
    """The gs:// URI of a folder."""
    parameters: Any = None
    replicas: int = 1


@dataclass(frozen=True, kw_only=True)
class ModelVersion:
    """A version of the model."""

    version_id: str
    aliases: list[str] = field(default_factory=list)
    labels: dict[str, str] = field(default_factory=dict)
    artifact_uri: str = ""
    container: Json = field(default_factory=dict)
    """Google's containerSpec, only the fields that `container_spec` sets."""


class VertexAI:
    """A client for the endpoint and the model of the settings."""

    def __init__(self, client: Client) -> None:
        self._client, self._settings, self._run = client, client.settings, client.run_operation
        self._base = client.url(f"{client.settings.region}-aiplatform")
        self._location = f"{self._base}/{client.settings.location}"
        self._endpoint = f"{self._base}/{client.settings.endpoint}"
        self._model = f"{self._base}/{client.settings.model}"

    # Endpoints

    def endpoint_state(self) -> EndpointState | None:
        """Return the endpoint's current state; None if the endpoint does not exist."""
        pending = self.pending_operations(self._settings.endpoint)
        endpoint = self._client.get(self._endpoint)
        if endpoint is None:
            return EndpointState(pending=pending) if pending else None
        default = (each.version_id for each in self.versions() if "default" in each.aliases)
        return EndpointState(
            deployed=_deployed_models(endpoint),
            split=endpoint.get("trafficSplit", {}),
            labels=endpoint.get("labels", {}),
            pending=pending,
            default=next(default, ""),
            etag=endpoint.get("etag", ""),
            dedicated=endpoint.get("dedicatedEndpointEnabled", False),
        )

    def list_endpoints(self) -> dict[str, EndpointState]:
        """Return the models and traffic splits of all endpoints in the region, by the endpoint's ID."""
        return {
            endpoint["name"].rpartition("/")[2]: EndpointState(
                _deployed_models(endpoint), endpoint.get("trafficSplit", {})
            )
            for endpoint in self._client.list_all(f"{self._location}/endpoints", "endpoints")
        }

    def create_endpoint(self) -> None:
        """Create the endpoint."""
        s = self._settings
        endpoint = {
            "displayName": s.name,
            "labels": {"created-by": "deploy"},
            "dedicatedEndpointEnabled": s.dedicated,
            **_connection_config(s),
        }
        url, action = f"{self._location}/endpoints", f"creating the endpoint {s.name}"
        rpc = "EndpointService.CreateEndpoint"
        self._run(rpc, "POST", url, action, endpoint, endpointId=s.name)

    def update_endpoint(
        self, etag: str, labels: Mapping[str, str], split: Mapping[str, int] | None = None
    ) -> None:
        """Set the endpoint's labels, its timeout and, if given, its traffic split, in one request.

        The request fails if the endpoint no longer has this etag.
        """
        changed = {"labels": dict(labels), **_connection_config(self._settings)}
        if split is not None:
            changed["trafficSplit"] = dict(split)
        action = "setting the labels" if split is None else "setting the traffic split"
        rpc, mask = "EndpointService.UpdateEndpoint", ",".join(changed)
        body = {"etag": etag, **changed}
        self._client.change(rpc, "PATCH", self._endpoint, action, body, updateMask=mask)

    def delete_endpoint(self) -> None:
        """Delete the endpoint."""
        rpc = "EndpointService.DeleteEndpoint"
        self._run(rpc, "DELETE", self._endpoint, "deleting the endpoint")

    # Deployed models

    def deploy_model(self, version: str) -> None:
        """Deploy a version without traffic."""
        s = self._settings
        deployed = {
            "model": f"{s.model}@{version}",
            "displayName": f"{s.name}-{version}",
            "dedicatedResources": _resources(s.machine, s.replicas),
            **({"serviceAccount": s.service_account} if s.service_account else {}),
        }
        action = f"deploying version {version} on {s.min_replicas} x {s.machine_type}"
        hour = estimate_cost([(s.machine, s.min_replicas)]).per_hour
        usual = f"{DEPLOYMENT_TIME}, then {hour}"
        self._change_deployment("DeployModel", action, {"deployedModel": deployed}, usual)

    def set_replicas(self, deployed_id: str, replicas: Replicas) -> None:
        """Change a deployed model's number of replicas and its scaling target."""
        resources = _resources(self._settings.machine, replicas)
        body = {
            "deployedModel": {"id": deployed_id, "dedicatedResources": resources},
            "updateMask": ",".join(f"dedicatedResources.{name}" for name in REPLICA_FIELDS),
        }
        action = f"scaling deployed model {deployed_id} to {replicas.minimum} to {replicas.maximum} replicas"
        self._change_deployment("MutateDeployedModel", action, body)

    def undeploy_model(self, model: DeployedModel) -> None:
        """Undeploy a deployed model."""
        action = f"undeploying version {model.version}"
        body = {"deployedModelId": model.id}
        self._change_deployment("UndeployModel", action, body, "a few minutes")

    def _change_deployment(self, method: str, action: str, body: Json, usual: str = "") -> None:
        url = f"{self._endpoint}:{method[0].lower()}{method[1:]}"
        self._run(f"EndpointService.{method}", "POST", url, action, body, usual)

    # Operations

    def pending_operations(self, resource: str) -> tuple[str, ...]:
        """Return the names of the operations on a resource that have not ended."""
        operations = self._client.list_all(f"{self._base}/{resource}/operations", "operations")
        return tuple(each["name"] for each in operations if not each.get("done"))

    def wait(self, operation: str, action: str) -> None:
        """Wait until an operation ends; raise UserError if it fails."""
        self._client.wait(f"{self._base}/{operation}", action)

    def cancel_operation(self, operation: str) -> None:
        """Request the cancellation of an operation."""
        url, action = f"{self._base}/{operation}", f"cancelling {operation.rpartition('/')[2]}"
        self._client.change("Operations.CancelOperation", "POST", f"{url}:cancel", action, {})

    # Models

    def versions(self) -> list[ModelVersion]:
        """Return the model's versions, the newest first; an empty list if the model does not exist."""
        listed = self._client.list_all(f"{self._model}:listVersions", "models")
        versions = [
            ModelVersion(
                version_id=each["versionId"],
                aliases=each.get("versionAliases", []),
                labels=each.get("labels", {}),
                artifact_uri=each.get("artifactUri", ""),
                container={
                    name: value
                    for name, value in each.get("containerSpec", {}).items()
                    if name in CONTAINER_FIELDS
                },
            )
            for each in listed
        ]
        return sorted(versions, key=lambda version: int(version.version_id), reverse=True)

    def find_version(self, image: str, versions: list[ModelVersion]) -> str:
        """Return the newest version with this image and the container of the settings; "" if there is none."""
        expected = self._settings.artifact_uri, container_spec(self._settings, image)
        for version in versions:
            if (version.artifact_uri, version.container) == expected:
                return version.version_id
        return ""

    def upload_model(
        self,
        image: str,
        labels: dict[str, str],
        aliases: list[str],
        schemata: dict[str, str],
        *,
        is_new: bool,
    ) -> None:
        """Register an image as a new model (`is_new`), or as a new version of the existing model.

        `schemata` are the fields of PredictSchemata.
        """
        s = self._settings
        model = {
            "displayName": s.name,
            "labels": labels,
            "versionAliases": aliases,
            "containerSpec": container_spec(s, image),
            **({"artifactUri": s.artifact_uri} if s.artifact_uri else {}),
            **({"predictSchemata": schemata} if schemata else {}),
        }
        body = {"model": model, **({"modelId": s.name} if is_new else {"parentModel": s.model})}
        rpc, url = "ModelService.UploadModel", f"{self._location}/models:upload"
        self._run(rpc, "POST", url, "uploading the model", body)

    def set_default_version(self, version: str) -> None:
        """Give a version the alias "default"."""
        url, action = f"{self._model}@{version}", f"making version {version} the default"
        rpc, body = "ModelService.MergeVersionAliases", {"versionAliases": ["default"]}
        self._client.change(rpc, "POST", f"{url}:mergeVersionAliases", action, body)

    def delete_model(self) -> None:
        """Delete the model with all its versions."""
        self._run("ModelService.DeleteModel", "DELETE", self._model, "deleting the model")

    # Predictions

    def predict(self, request: Json) -> Json:
        """Send {"instances": […], "parameters": {…}}; return {"predictions": […], "deployedModelId": …}."""
        url = f"{self._predictions}:predict"
        body = {name: request[name] for name in ("instances", "parameters") if request.get(name)}
        try:
            return self._client.send(method="POST", url=url, json=body, timeout=TIMEOUT_S)
        except exceptions.GoogleAPICallError as error:
            raise self._client.user_error(error, PREDICTING) from None
        except (requests.ConnectionError, requests.Timeout) as error:
            reason = f"no response from the endpoint: {error}"
            raise UserError(reason, "make status") from None

    def stream_raw_predict(
        self, body: bytes, headers: dict[str, str], timeout_s: float
    ) -> requests.Response:
        """Send a body to the endpoint; return the response, whose parts arrive one by one."""
        url, post = f"{self._predictions}:streamRawPredict", self._client.session.post
        return post(url, body, headers=headers, timeout=timeout_s, stream=True)

    @property
    def _predictions(self) -> str:
        """The URL for predictions: that of a dedicated endpoint has a domain of its own."""
        dns = (self._client.get(self._endpoint) or {}).get("dedicatedEndpointDns")
        return f"https://{dns}/v1/{self._settings.endpoint}" if dns else self._endpoint

    # Batch prediction jobs

    def wait_for_batch_job(self, name: str) -> Json:
        """Wait until a job ends in whatever state, report each change of its state, and return it."""
        return self._client.poll(
            lambda: self._client.get(f"{self._base}/{name}") or {"state": "JOB_STATE_EXPIRED"},
            lambda job: job_state(job) in DONE,
            UserError(
                f"timed out after {self._settings.wait_minutes} minutes; the job {name} continues at Google",
                "make status shows its state",
            ),
            lambda job: job_state(job).lower(),
        )

    def start_batch_job(self, batch: BatchRequest) -> str:
        """Start a batch prediction job; return its name, "" in a dry run."""
        s, count = self._settings, batch.replicas
        job: Json = {
            "displayName": f"{s.name}-{time.strftime('%Y%m%d-%H%M%S')}",
            "model": f"{s.model}@{batch.version}",
            "inputConfig": {"instancesFormat": "jsonl", "gcsSource": {"uris": [batch.source]}},
            "outputConfig": {
                "predictionsFormat": "jsonl",
                "gcsDestination": {"outputUriPrefix": batch.output},
            },
            "dedicatedResources": {
                "machineSpec": {"machineType": s.machine_type},
                "startingReplicaCount": count,
                "maxReplicaCount": count,
            },
        }
        if batch.parameters is not None:
            job["modelParameters"] = batch.parameters
        rpc, url = "JobService.CreateBatchPredictionJob", f"{self._location}/batchPredictionJobs"
        started = self._client.change(rpc, "POST", url, "starting the batch prediction job", job)
        return str(started["name"]) if started is not None else ""


def job_state(job: Json) -> str:
    """Return a batch prediction job's state, such as RUNNING or SUCCEEDED."""
    return str(job["state"]).removeprefix("JOB_STATE_")


def container_spec(settings: Settings, image: str) -> Json:
    """Return how Vertex AI runs an image, as Google returns it: without empty values."""
    fields = {
        "imageUri": image,
        "ports": [{"containerPort": settings.port}],
        "healthRoute": settings.health_route,
        "predictRoute": settings.predict_route,
        "env": [{"name": name, "value": value} for name, value in sorted(settings.env.items())],
        # JSON has integers of 64 bits as text.
        "sharedMemorySizeMb": str(settings.shared_memory_mb or ""),
    }
    return {name: value for name, value in fields.items() if value}


def _connection_config(settings: Settings) -> Json:
    """Return how long a dedicated endpoint waits: a little longer than the container; nothing for Google's default."""
    seconds = settings.response_timeout_s
    if not settings.dedicated or seconds is None:
        return {}
    timeout_s = min(seconds + EXTRA_TIMEOUT_S, MAX_TIMEOUT_S)
    return {"clientConnectionConfig": {"inferenceTimeout": f"{timeout_s}s"}}


def _resources(machine: Machine, replicas: Replicas) -> Json:
    spec: Json = {"machineType": machine.type}
    if machine.accelerator_count:
        spec |= {
            "acceleratorType": machine.accelerator_type,
            "acceleratorCount": machine.accelerator_count,
        }
    metric = GPU_METRIC if machine.accelerator_count else CPU_METRIC
    return {
        "machineSpec": spec,
        "minReplicaCount": replicas.minimum,
        "maxReplicaCount": replicas.maximum,
        "autoscalingMetricSpecs": [{"metricName": metric, "target": replicas.cpu_percent}],
    }


def _deployed_models(endpoint: Json) -> tuple[DeployedModel, ...]:
    return tuple(map(_deployed_model, endpoint.get("deployedModels", ())))


def _deployed_model(deployed: Json) -> DeployedModel:
    resources = deployed.get("dedicatedResources", {})
    spec, metrics = resources.get("machineSpec", {}), resources.get("autoscalingMetricSpecs", ())
    machine = Machine(
        spec.get("machineType", ""),
        spec.get("acceleratorType", ""),
        spec.get("acceleratorCount", 0),
        deployed.get("serviceAccount", ""),
    )
    percent = next((metric["target"] for metric in metrics), 60)
    minimum, maximum = resources.get("minReplicaCount", 0), resources.get("maxReplicaCount", 0)
    model, _, version = deployed["model"].partition("@")
    created = deployed.get("createTime", "")
    return DeployedModel(
        id=deployed["id"],
        version=deployed.get("modelVersionId") or version or "1",
        machine=machine,
        replicas=Replicas(minimum, maximum, percent),
        # Of one length, so that texts are in the order of time.
        since=datetime.fromisoformat(created).isoformat(timespec="microseconds") if created else "",
        model_name=model.rpartition("/")[2],
    )
