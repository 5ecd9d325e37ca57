"""Endpoints, models and their versions, predictions, batch prediction jobs."""

import functools
import time
from collections.abc import Mapping
from typing import Any

import requests
from google.api_core import exceptions
from google.cloud import aiplatform_v1 as v1
from google.longrunning import operations_pb2
from google.protobuf import json_format
from google.protobuf.struct_pb2 import Value

from deploy.error_messages import to_user_error
from deploy.errors import UserError
from deploy.gcp.client import TIMEOUT_S, Wire, said
from deploy.plan import Deployed, Machine, Replicas, State
from deploy.settings import Settings

CPU = "aiplatform.googleapis.com/prediction/online/cpu/utilization"
GPU = "aiplatform.googleapis.com/prediction/online/accelerator/duty_cycle"

OVER = ("SUCCEEDED", "FAILED", "CANCELLED", "EXPIRED", "PARTIALLY_SUCCEEDED")
"""States of a batch prediction job that has ended."""
RESIZED = ("min_replica_count", "max_replica_count", "autoscaling_metric_specs")
SET = ("imageUri", "ports", "healthRoute", "predictRoute", "env", "sharedMemorySizeMb")
"""What `container` sets."""


class Vertex(Wire):
    """What Vertex AI's endpoint, model, prediction and job services are asked."""

    def state(self) -> State | None:
        """Return the endpoint as it is now; None where there is none."""
        pending = self.pending(self.settings.endpoint)
        found = self._find(self._endpoints.get_endpoint, name=self.settings.endpoint)
        if found is None:
            return State(pending=pending) if pending else None
        aliases = {alias: each for each in self.versions() for alias in each.version_aliases}
        return State(
            _deployed(found),
            dict(found.traffic_split),
            dict(found.labels),
            pending,
            aliases["default"].version_id if "default" in aliases else "",
            found.etag,
            found.dedicated_endpoint_enabled,
        )

    def all_endpoints(self) -> list[tuple[str, tuple[Deployed, ...], dict[str, int]]]:
        """Return (name, what is deployed, split) of every endpoint in the region."""
        found = self._list(self._endpoints.list_endpoints, parent=self.settings.location)
        return [(each.name, _deployed(each), dict(each.traffic_split)) for each in found]

    def versions(self) -> list[v1.Model]:
        """Return the model's versions, the newest first; none where there is no model."""
        found = self._list(self._models.list_model_versions, name=self.settings.model)
        return sorted(found, key=lambda each: int(each.version_id), reverse=True)

    def version_of(self, image: str, known: list[v1.Model]) -> str:
        """Return the version that an upload of an image would make again; "" where there is none."""
        wanted = written(container(self.settings, image)), self.settings.artifact_uri
        for each in known:
            if (written(each.container_spec), each.artifact_uri) == wanted:
                return str(each.version_id)
        return ""

    def pending(self, resource: str) -> tuple[str, ...]:
        """Return the operations on a resource that Google has not ended."""
        request = operations_pb2.ListOperationsRequest(name=resource)
        found = self._find(self._endpoints.list_operations, request=request)
        return tuple(each.name for each in found.operations if not each.done) if found else ()

    def upload(self, image: str, labels: dict[str, str], aliases: list[str], parent: bool) -> None:
        """Register an image as a model, or as a new version of the one there is (`parent`)."""
        s = self.settings
        model = v1.Model(
            display_name=s.name,
            labels=labels,
            version_aliases=aliases,
            artifact_uri=s.artifact_uri,
            container_spec=container(s, image),
        )
        request = v1.UploadModelRequest(parent=s.location, model=model)
        if parent:
            request.parent_model = s.model
        else:
            request.model_id = s.name
        self._start("uploading the model", self._models.upload_model, request)

    def create_endpoint(self) -> None:
        """Create the endpoint."""
        s = self.settings
        endpoint = v1.Endpoint(
            display_name=s.name,
            dedicated_endpoint_enabled=s.dedicated,
            labels={"created-by": "deploy"},
        )
        request = v1.CreateEndpointRequest(parent=s.location, endpoint=endpoint, endpoint_id=s.name)
        self._start(f"creating the endpoint {s.name}", self._endpoints.create_endpoint, request)

    def deploy(self, version: str) -> None:
        """Start a version's containers, without traffic."""
        s = self.settings
        deployed = v1.DeployedModel(
            model=f"{s.model}@{version}",
            display_name=f"{s.name}-{version}",
            service_account=s.service_account,
            dedicated_resources=_resources(s.machine, s.replicas),
        )
        request = v1.DeployModelRequest(endpoint=s.endpoint, deployed_model=deployed)
        doing = f"deploying version {version} on {s.min_replicas} x {s.machine_type}"
        self._start(doing, self._endpoints.deploy_model, request, usual="5 to 20 minutes")

    def resize(self, number: str, replicas: Replicas) -> None:
        """Change a deployed model's replicas."""
        resources = _resources(self.settings.machine, replicas)
        request = v1.MutateDeployedModelRequest(
            endpoint=self.settings.endpoint,
            deployed_model=v1.DeployedModel(id=number, dedicated_resources=resources),
            update_mask={"paths": [f"dedicated_resources.{each}" for each in RESIZED]},
        )
        doing = f"changing deployed model {number} to {replicas.least} to {replicas.most} replicas"
        self._start(doing, self._endpoints.mutate_deployed_model, request)

    def update(
        self, etag: str, labels: Mapping[str, str], split: Mapping[str, int] | None = None
    ) -> None:
        """Set the endpoint's labels and, where given, its traffic, in one request that fails if others changed it."""
        endpoint = v1.Endpoint(name=self.settings.endpoint, etag=etag, labels=dict(labels))
        paths = ["labels"]
        if split is not None:
            endpoint.traffic_split = dict(split)
            paths.append("traffic_split")
        request = v1.UpdateEndpointRequest(endpoint=endpoint, update_mask={"paths": paths})
        doing = "changing the traffic" if split is not None else "writing down what is under way"
        self._change(doing, self._endpoints.update_endpoint, request)

    def undeploy(self, number: str) -> None:
        """End a deployed model."""
        request = v1.UndeployModelRequest(endpoint=self.settings.endpoint, deployed_model_id=number)
        doing = f"undeploying {number}"
        self._start(doing, self._endpoints.undeploy_model, request, usual="a few minutes")

    def make_default(self, version: str) -> None:
        """Give a version the alias "default"."""
        request = v1.MergeVersionAliasesRequest(
            name=f"{self.settings.model}@{version}", version_aliases=["default"]
        )
        doing = f"making version {version} the default"
        self._change(doing, self._models.merge_version_aliases, request)

    def cancel(self, operation: str) -> None:
        """Ask Google to give an operation up."""
        request = operations_pb2.CancelOperationRequest(name=operation)
        doing = f"cancelling {operation.rsplit('/', 1)[-1]}"
        self._change(doing, self._endpoints.cancel_operation, request)

    def delete_endpoint(self) -> None:
        """Delete the endpoint."""
        request = v1.DeleteEndpointRequest(name=self.settings.endpoint)
        self._start("deleting the endpoint", self._endpoints.delete_endpoint, request)

    def delete_model(self) -> None:
        """Delete the model with all its versions."""
        request = v1.DeleteModelRequest(name=self.settings.model)
        self._start("deleting the model", self._models.delete_model, request)

    def predict(self, body: dict[str, Any]) -> dict[str, Any]:
        """Send {"instances": […], "parameters": {…}} and return {"predictions": […], "deployedModelId": …}."""
        content = {
            "endpoint": self.settings.endpoint,
            "instances": body["instances"],
            "parameters": body.get("parameters"),
        }
        parsed = json_format.ParseDict(content, v1.PredictRequest.pb()())
        client = self._predictions
        try:
            answer = client.predict(v1.PredictRequest.wrap(parsed), timeout=TIMEOUT_S)
        except exceptions.GoogleAPICallError as error:
            raise to_user_error(said(error, "predicting"), self.settings) from None
        except (requests.ConnectionError, requests.Timeout) as error:
            raise UserError(f"no answer: {error}", "python -m deploy status") from None
        return dict(json_format.MessageToDict(v1.PredictResponse.pb(answer)))

    def batches(self) -> list[v1.BatchPredictionJob]:
        """Return the region's batch prediction jobs of this model that are not over."""
        found = self._list(self._jobs.list_batch_prediction_jobs, parent=self.settings.location)
        model = f"/models/{self.settings.name}"
        return [
            each
            for each in found
            if each.model.partition("@")[0].endswith(model) and self.batch_state(each) not in OVER
        ]

    def batch_state(self, job: v1.BatchPredictionJob) -> str:
        """Return a job's state, such as RUNNING or SUCCEEDED."""
        return str(v1.JobState(job.state).name).removeprefix("JOB_STATE_")

    def wait_for_batch(self, name: str) -> v1.BatchPredictionJob:
        """Watch a job until it has ended, one way or another, with a line for each change of its state."""
        return self.poll(
            lambda: self._read(self._jobs.get_batch_prediction_job, name=name),
            lambda job: self.batch_state(job) in OVER,
            UserError("the job is not over yet", f"it goes on; its name is {name}"),
            lambda job: self.batch_state(job).lower(),
        )

    def start_batch(
        self, version: str, source: str, output: str, parameters: Any, replicas: int
    ) -> str:
        """Begin a batch prediction job; return its name.

        `source` is gs://… with JSON lines, `output` a gs://… folder.
        """
        machine = v1.MachineSpec(machine_type=self.settings.machine_type)
        job = v1.BatchPredictionJob(
            display_name=f"{self.settings.name}-{time.strftime('%Y%m%d-%H%M%S')}",
            model=f"{self.settings.model}@{version}",
            input_config=v1.BatchPredictionJob.InputConfig(
                instances_format="jsonl", gcs_source=v1.GcsSource(uris=[source])
            ),
            output_config=v1.BatchPredictionJob.OutputConfig(
                predictions_format="jsonl",
                gcs_destination=v1.GcsDestination(output_uri_prefix=output),
            ),
            dedicated_resources=v1.BatchDedicatedResources(
                machine_spec=machine,
                starting_replica_count=replicas,
                max_replica_count=replicas,
            ),
        )
        if parameters is not None:
            job.model_parameters = json_format.ParseDict(parameters, Value())
        request = v1.CreateBatchPredictionJobRequest(
            parent=self.settings.location, batch_prediction_job=job
        )
        begun = self._change("beginning the job", self._jobs.create_batch_prediction_job, request)
        return str(begun.name) if begun is not None else ""

    def cancel_batch(self, name: str) -> None:
        """Ask a batch prediction job to end."""
        request = v1.CancelBatchPredictionJobRequest(name=name)
        self._change("cancelling a batch job", self._jobs.cancel_batch_prediction_job, request)

    @functools.cached_property
    def _jobs(self) -> Any:
        return self._client(v1.JobServiceClient, self._vertex)

    @functools.cached_property
    def _models(self) -> Any:
        return self._client(v1.ModelServiceClient, self._vertex)

    @functools.cached_property
    def _predictions(self) -> Any:
        endpoint = self._read(self._endpoints.get_endpoint, name=self.settings.endpoint)
        own = endpoint.dedicated_endpoint_dns
        return self._client(v1.PredictionServiceClient, self._vertex, own)


def container(settings: Settings, image: str) -> v1.ModelContainerSpec:
    """Return how Vertex AI is to run an image."""
    return v1.ModelContainerSpec(
        image_uri=image,
        ports=[v1.Port(container_port=settings.port)],
        health_route=settings.health_route,
        predict_route=settings.predict_route,
        env=[v1.EnvVar(name=k, value=v) for k, v in sorted(settings.env.items())],
        shared_memory_size_mb=settings.shared_memory_mb,
    )


def written(spec: v1.ModelContainerSpec) -> dict[str, Any]:
    """Return what is set of a container as JSON, to be compared; not what Google may add of its own."""
    found = json_format.MessageToDict(v1.ModelContainerSpec.pb(spec))
    return {key: value for key, value in found.items() if key in SET}


def _resources(machine: Machine, replicas: Replicas) -> v1.DedicatedResources:
    spec = v1.MachineSpec(machine_type=machine.type)
    if machine.accelerators:
        spec.accelerator_type = v1.AcceleratorType[machine.accelerator]
        spec.accelerator_count = machine.accelerators
    used = GPU if machine.accelerators else CPU
    metric = v1.AutoscalingMetricSpec(metric_name=used, target=replicas.cpu_percent)
    return v1.DedicatedResources(
        machine_spec=spec,
        min_replica_count=replicas.least,
        max_replica_count=replicas.most,
        autoscaling_metric_specs=[metric],
    )


def _deployed(endpoint: v1.Endpoint) -> tuple[Deployed, ...]:
    found = []
    for each in endpoint.deployed_models:
        resources = each.dedicated_resources
        spec = resources.machine_spec
        kind = v1.AcceleratorType(spec.accelerator_type).name if spec.accelerator_count else ""
        percent = next((each.target for each in resources.autoscaling_metric_specs), 60)
        model, _, suffix = each.model.partition("@")
        found.append(
            Deployed(
                each.id,
                each.model_version_id or suffix or "1",
                Machine(spec.machine_type, kind, spec.accelerator_count, each.service_account),
                Replicas(resources.min_replica_count, resources.max_replica_count, percent),
                each.create_time.isoformat() if each.create_time else "",
                model.rsplit("/", 1)[-1],
            )
        )
    return tuple(found)
