"""Vertex AI: endpoints, models and their versions, predictions, batch prediction jobs."""

import functools
import time
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import requests
from google.api_core import exceptions
from google.cloud import aiplatform_v1 as v1
from google.longrunning import operations_pb2
from google.protobuf import duration_pb2, json_format
from google.protobuf.struct_pb2 import Value

from deploy.errors import UserError
from deploy.fields.container import MAX_TIMEOUT_S
from deploy.gcp.client import TIMEOUT_S, Client
from deploy.plan import DeployedModel, EndpointState, Machine, Replicas
from deploy.settings import Settings

CPU_METRIC = "aiplatform.googleapis.com/prediction/online/cpu/utilization"
GPU_METRIC = "aiplatform.googleapis.com/prediction/online/accelerator/duty_cycle"

DONE = ("SUCCEEDED", "FAILED", "CANCELLED", "EXPIRED", "PARTIALLY_SUCCEEDED")
"""States of a batch prediction job that has ended."""
EXTRA_TIMEOUT_S = 10
"""How much longer than the container a dedicated endpoint waits, so that the container's error arrives."""
REPLICA_FIELDS = ("min_replica_count", "max_replica_count", "autoscaling_metric_specs")
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


class VertexAI:
    """A client for the endpoint and the model of the settings."""

    def __init__(self, client: Client) -> None:
        self._client, self._settings, self._run = client, client.settings, client.run_operation

    # Endpoints

    def endpoint_state(self) -> EndpointState | None:
        """Return the endpoint's current state; None if the endpoint does not exist."""
        name = self._settings.endpoint
        pending = self.pending_operations(name)
        endpoint = self._client.find(self._endpoints.get_endpoint, name=name)
        if endpoint is None:
            return EndpointState(pending=pending) if pending else None
        versions = self.versions()
        default = (each.version_id for each in versions if "default" in each.version_aliases)
        return EndpointState(
            deployed=_deployed_models(endpoint),
            split=dict(endpoint.traffic_split),
            labels=dict(endpoint.labels),
            pending=pending,
            default=next(default, ""),
            etag=endpoint.etag,
            dedicated=endpoint.dedicated_endpoint_enabled,
        )

    def list_endpoints(self) -> dict[str, EndpointState]:
        """Return the models and traffic splits of all endpoints in the region, by the endpoint's ID."""
        location = self._settings.location
        endpoints = self._client.list_all(self._endpoints.list_endpoints, parent=location)
        return {
            endpoint.name.rpartition("/")[2]: EndpointState(
                _deployed_models(endpoint), dict(endpoint.traffic_split)
            )
            for endpoint in endpoints
        }

    def create_endpoint(self) -> None:
        """Create the endpoint."""
        s = self._settings
        endpoint = v1.Endpoint(
            display_name=s.name,
            dedicated_endpoint_enabled=s.dedicated,
            client_connection_config=_connection_config(s),
        )
        endpoint.labels = {"created-by": "deploy"}
        request = v1.CreateEndpointRequest(parent=s.location, endpoint=endpoint, endpoint_id=s.name)
        action = f"creating the endpoint {s.name}"
        self._run(self._endpoints.create_endpoint, request, action)

    def update_endpoint(
        self, etag: str, labels: Mapping[str, str], split: Mapping[str, int] | None = None
    ) -> None:
        """Set the endpoint's labels, its timeout and, if given, its traffic split, in one request.

        The request fails if the endpoint no longer has this etag.
        """
        endpoint = v1.Endpoint(name=self._settings.endpoint, etag=etag, labels=dict(labels))
        paths = ["labels"]
        if timeout := _connection_config(self._settings):
            endpoint.client_connection_config = timeout
            paths.append("client_connection_config")
        if split is not None:
            endpoint.traffic_split = dict(split)
            paths.append("traffic_split")
        request = v1.UpdateEndpointRequest(endpoint=endpoint, update_mask={"paths": paths})
        action = "setting the labels" if split is None else "setting the traffic split"
        self._client.change(self._endpoints.update_endpoint, request, action)

    def delete_endpoint(self) -> None:
        """Delete the endpoint."""
        request = v1.DeleteEndpointRequest(name=self._settings.endpoint)
        self._run(self._endpoints.delete_endpoint, request, "deleting the endpoint")

    # Deployed models

    def deploy_model(self, version: str) -> None:
        """Deploy a version without traffic."""
        s = self._settings
        deployed = v1.DeployedModel(
            model=f"{s.model}@{version}",
            display_name=f"{s.name}-{version}",
            service_account=s.service_account,
            dedicated_resources=_resources(s.machine, s.replicas),
        )
        request = v1.DeployModelRequest(endpoint=s.endpoint, deployed_model=deployed)
        action = f"deploying version {version} on {s.min_replicas} x {s.machine_type}"
        self._run(self._endpoints.deploy_model, request, action, "5 to 20 minutes")

    def set_replicas(self, deployed_id: str, replicas: Replicas) -> None:
        """Change a deployed model's number of replicas and its scaling target."""
        resources = _resources(self._settings.machine, replicas)
        request = v1.MutateDeployedModelRequest(
            endpoint=self._settings.endpoint,
            deployed_model=v1.DeployedModel(id=deployed_id, dedicated_resources=resources),
            update_mask={"paths": [f"dedicated_resources.{field}" for field in REPLICA_FIELDS]},
        )
        action = f"scaling deployed model {deployed_id} to {replicas.minimum} to {replicas.maximum} replicas"
        self._run(self._endpoints.mutate_deployed_model, request, action)

    def undeploy_model(self, deployed_id: str) -> None:
        """Undeploy a deployed model."""
        endpoint, action = self._settings.endpoint, f"undeploying {deployed_id}"
        request = v1.UndeployModelRequest(endpoint=endpoint, deployed_model_id=deployed_id)
        self._run(self._endpoints.undeploy_model, request, action, "a few minutes")

    # Operations

    def pending_operations(self, resource: str) -> tuple[str, ...]:
        """Return the names of the operations on a resource that have not ended."""
        request = operations_pb2.ListOperationsRequest(name=resource)
        response = self._client.find(self._endpoints.list_operations, request=request)
        operations = response.operations if response else ()
        return tuple(operation.name for operation in operations if not operation.done)

    def wait(self, operation: str, action: str) -> None:
        """Wait until an operation ends; raise UserError if it fails."""
        self._client.wait(self._endpoints, operation, action)

    def cancel_operation(self, operation: str) -> None:
        """Request the cancellation of an operation."""
        request = operations_pb2.CancelOperationRequest(name=operation)
        action = f"cancelling {operation.rpartition('/')[2]}"
        self._client.change(self._endpoints.cancel_operation, request, action)

    # Models

    def versions(self) -> list[v1.Model]:
        """Return the model's versions, the newest first; an empty list if the model does not exist."""
        listed = self._client.list_all(self._models.list_model_versions, name=self._settings.model)
        return sorted(listed, key=lambda version: int(version.version_id), reverse=True)

    def find_version(self, image: str, versions: list[v1.Model]) -> str:
        """Return the newest version with this image and the container of the settings; "" if there is none."""
        expected = set_fields(container_spec(self._settings, image))
        for version in versions:
            same_artifacts = version.artifact_uri == self._settings.artifact_uri
            if same_artifacts and set_fields(version.container_spec) == expected:
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
        model = v1.Model(
            display_name=s.name,
            labels=labels,
            version_aliases=aliases,
            artifact_uri=s.artifact_uri,
            container_spec=container_spec(s, image),
            predict_schemata=v1.PredictSchemata(**schemata) if schemata else None,
        )
        request = v1.UploadModelRequest(parent=s.location, model=model)
        if is_new:
            request.model_id = s.name
        else:
            request.parent_model = s.model
        self._run(self._models.upload_model, request, "uploading the model")

    def set_default_version(self, version: str) -> None:
        """Give a version the alias "default"."""
        name = f"{self._settings.model}@{version}"
        request = v1.MergeVersionAliasesRequest(name=name, version_aliases=["default"])
        action = f"making version {version} the default"
        self._client.change(self._models.merge_version_aliases, request, action)

    def delete_model(self) -> None:
        """Delete the model with all its versions."""
        request = v1.DeleteModelRequest(name=self._settings.model)
        self._run(self._models.delete_model, request, "deleting the model")

    # Predictions

    def predict(self, request: dict[str, Any]) -> dict[str, Any]:
        """Send {"instances": […], "parameters": {…}}; return {"predictions": […], "deployedModelId": …}."""
        content = {
            "endpoint": self._settings.endpoint,
            "instances": request["instances"],
            "parameters": request.get("parameters"),
        }
        message = json_format.ParseDict(content, v1.PredictRequest.pb()())
        try:
            response = self._predictions.predict(v1.PredictRequest.wrap(message), timeout=TIMEOUT_S)
        except exceptions.GoogleAPICallError as error:
            raise self._client.user_error(error, "predicting") from None
        except (requests.ConnectionError, requests.Timeout) as error:
            reason = f"no response from the endpoint: {error}"
            raise UserError(reason, "make status") from None
        return dict(json_format.MessageToDict(v1.PredictResponse.pb(response)))

    def stream_raw_predict(
        self, body: bytes, headers: dict[str, str], timeout_s: float
    ) -> requests.Response:
        """Send a body to the endpoint; return the response, whose parts arrive one by one."""
        name = self._settings.endpoint
        dns = self._client.read(self._endpoints.get_endpoint, name=name).dedicated_endpoint_dns
        host = (not dns and self._settings.api_endpoint) or f"https://{dns or self._host}"
        url = f"{host}/v1/{name}:streamRawPredict"
        post = self._client.session.post
        return post(url, body, headers=headers, timeout=timeout_s, stream=True)

    @staticmethod
    def job_state(job: v1.BatchPredictionJob) -> str:
        """Return a batch prediction job's state, such as RUNNING or SUCCEEDED."""
        return str(v1.JobState(job.state).name).removeprefix("JOB_STATE_")

    def wait_for_batch_job(self, name: str) -> v1.BatchPredictionJob:
        """Wait until a job ends in whatever state, report each change of its state, and return it."""
        return self._client.poll(
            lambda: self._client.read(self._jobs.get_batch_prediction_job, name=name),
            lambda job: self.job_state(job) in DONE,
            UserError(
                f"timed out after {self._settings.wait_minutes} minutes; the job {name} continues at Google",
                "make status shows its state",
            ),
            lambda job: self.job_state(job).lower(),
        )

    def start_batch_job(self, batch: BatchRequest) -> str:
        """Start a batch prediction job; return its name, "" in a dry run."""
        s, count = self._settings, batch.replicas
        job = v1.BatchPredictionJob(
            display_name=f"{s.name}-{time.strftime('%Y%m%d-%H%M%S')}",
            model=f"{s.model}@{batch.version}",
            input_config=v1.BatchPredictionJob.InputConfig(
                instances_format="jsonl", gcs_source=v1.GcsSource(uris=[batch.source])
            ),
            output_config=v1.BatchPredictionJob.OutputConfig(
                predictions_format="jsonl",
                gcs_destination=v1.GcsDestination(output_uri_prefix=batch.output),
            ),
            dedicated_resources=v1.BatchDedicatedResources(
                machine_spec=v1.MachineSpec(machine_type=s.machine_type),
                starting_replica_count=count,
                max_replica_count=count,
            ),
        )
        if batch.parameters is not None:
            job.model_parameters = json_format.ParseDict(batch.parameters, Value())
        request = v1.CreateBatchPredictionJobRequest(parent=s.location, batch_prediction_job=job)
        create = self._jobs.create_batch_prediction_job
        started = self._client.change(create, request, "starting the batch prediction job")
        return started.name if started is not None else ""

    # Services

    @property
    def _host(self) -> str:
        return f"{self._settings.region}-aiplatform.googleapis.com"

    @functools.cached_property
    def _endpoints(self) -> v1.EndpointServiceClient:
        return self._client.connect(v1.EndpointServiceClient, self._host)

    @functools.cached_property
    def _models(self) -> v1.ModelServiceClient:
        return self._client.connect(v1.ModelServiceClient, self._host)

    @functools.cached_property
    def _jobs(self) -> v1.JobServiceClient:
        return self._client.connect(v1.JobServiceClient, self._host)

    @functools.cached_property
    def _predictions(self) -> v1.PredictionServiceClient:
        name = self._settings.endpoint
        dns = self._client.read(self._endpoints.get_endpoint, name=name).dedicated_endpoint_dns
        return self._client.connect(v1.PredictionServiceClient, self._host, dns)


def container_spec(settings: Settings, image: str) -> v1.ModelContainerSpec:
    """Return how Vertex AI runs an image."""
    return v1.ModelContainerSpec(
        image_uri=image,
        ports=[v1.Port(container_port=settings.port)],
        health_route=settings.health_route,
        predict_route=settings.predict_route,
        env=[v1.EnvVar(name=name, value=value) for name, value in sorted(settings.env.items())],
        shared_memory_size_mb=settings.shared_memory_mb,
    )


def set_fields(spec: v1.ModelContainerSpec) -> dict[str, Any]:
    """Return the fields of a container that `container_spec` sets, as JSON, without those that Google adds."""
    fields = json_format.MessageToDict(v1.ModelContainerSpec.pb(spec))
    return {name: value for name, value in fields.items() if name in CONTAINER_FIELDS}


def _connection_config(settings: Settings) -> v1.ClientConnectionConfig | None:
    """Return how long a dedicated endpoint waits: a little longer than the container; None for Google's default."""
    seconds = settings.response_timeout_s
    if not settings.dedicated or seconds is None:
        return None
    timeout = duration_pb2.Duration(seconds=min(seconds + EXTRA_TIMEOUT_S, MAX_TIMEOUT_S))
    return v1.ClientConnectionConfig(inference_timeout=timeout)


def _resources(machine: Machine, replicas: Replicas) -> v1.DedicatedResources:
    accelerator = machine.accelerator_type or None
    try:
        spec = v1.MachineSpec(machine_type=machine.type, accelerator_type=accelerator)
    except KeyError:
        hint = "https://cloud.google.com/vertex-ai/docs/predictions/configure-compute lists them"
        raise UserError(f"unknown accelerator_type {accelerator!r}", hint) from None
    spec.accelerator_count = machine.accelerator_count
    metric = GPU_METRIC if machine.accelerator_count else CPU_METRIC
    scaling = v1.AutoscalingMetricSpec(metric_name=metric, target=replicas.cpu_percent)
    return v1.DedicatedResources(
        machine_spec=spec,
        min_replica_count=replicas.minimum,
        max_replica_count=replicas.maximum,
        autoscaling_metric_specs=[scaling],
    )


def _deployed_models(endpoint: v1.Endpoint) -> tuple[DeployedModel, ...]:
    return tuple(map(_deployed_model, endpoint.deployed_models))


def _deployed_model(deployed: v1.DeployedModel) -> DeployedModel:
    resources = deployed.dedicated_resources
    spec = resources.machine_spec
    accelerator = v1.AcceleratorType(spec.accelerator_type).name if spec.accelerator_count else ""
    account, count = deployed.service_account, spec.accelerator_count
    machine = Machine(spec.machine_type, accelerator, count, account)
    percent = next((metric.target for metric in resources.autoscaling_metric_specs), 60)
    model, _, version = deployed.model.partition("@")
    return DeployedModel(
        id=deployed.id,
        version=deployed.model_version_id or version or "1",
        machine=machine,
        replicas=Replicas(resources.min_replica_count, resources.max_replica_count, percent),
        since=deployed.create_time.isoformat() if deployed.create_time else "",
        model_name=model.rpartition("/")[2],
    )
