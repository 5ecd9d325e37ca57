"""Vertex AI: endpoints, models and their versions, predictions, batch prediction jobs."""

import time
from collections.abc import Collection, Mapping
from dataclasses import dataclass, field

import requests
from google.api_core import exceptions

from deploy.batch_request import BatchRequest
from deploy.cost import estimate_cost
from deploy.endpoint_config import EndpointConfig, from_settings, request_timeout_s
from deploy.error_messages import PREDICTING
from deploy.errors import UserError
from deploy.gcp import messages
from deploy.gcp.client import Client, Json
from deploy.plan import DEPLOYMENT_TIME, DeployedModel, EndpointState, Replicas

DONE = ("SUCCEEDED", "FAILED", "CANCELLED", "EXPIRED", "PARTIALLY_SUCCEEDED")
"""States of a batch prediction job that has ended."""
MUTABLE_FIELDS = (
    *("dedicatedResources.minReplicaCount", "dedicatedResources.maxReplicaCount"),
    *("dedicatedResources.autoscalingMetricSpecs", "disableContainerLogging"),
)
"""What a change of the replicas sets."""
PREVIEW = "v1beta1"
"""The version of the API that has scale to zero and rolling deployments."""


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
        service = f"{client.settings.region}-aiplatform"
        self._base, self._preview = client.url(service), client.url(service, PREVIEW)
        self._location = f"{self._base}/{client.settings.location}"
        self._endpoint = f"{self._base}/{client.settings.endpoint}"
        self._model = f"{self._base}/{client.settings.model}"

    # Endpoints

    def endpoint_state(self) -> EndpointState | None:
        """Return the endpoint's current state; None if the endpoint does not exist."""
        pending = self.pending_operations(self._settings.endpoint)
        # v1 does not return after which time a deployed model scales to zero.
        base = self._base if self._settings.min_replicas else self._preview
        endpoint = self._client.get(f"{base}/{self._settings.endpoint}")
        if endpoint is None:
            return EndpointState(pending=pending) if pending else None
        default = (each.version_id for each in self.versions() if "default" in each.aliases)
        return EndpointState(
            deployed=messages.read_deployed_models(endpoint),
            split=endpoint.get("trafficSplit", {}),
            labels=endpoint.get("labels", {}),
            pending=pending,
            default=next(default, ""),
            etag=endpoint.get("etag", ""),
        )

    def endpoint_config(self) -> EndpointConfig | None:
        """Return the endpoint's current configuration; None if the endpoint does not exist."""
        endpoint = self._client.get(self._endpoint)
        return None if endpoint is None else messages.read_config(endpoint)

    def list_endpoints(self) -> dict[str, EndpointState]:
        """Return the models and traffic splits of all endpoints in the region, by the endpoint's ID."""
        return {
            endpoint["name"].rpartition("/")[2]: EndpointState(
                messages.read_deployed_models(endpoint), endpoint.get("trafficSplit", {})
            )
            for endpoint in self._client.list_all(f"{self._location}/endpoints", "endpoints")
        }

    def create_endpoint(self) -> None:
        """Create the endpoint."""
        s = self._settings
        endpoint = messages.endpoint(s, from_settings(s))
        url, action = f"{self._location}/endpoints", f"creating the endpoint {s.name}"
        rpc = "EndpointService.CreateEndpoint"
        self._run(rpc, "POST", url, action, endpoint, endpointId=s.name)

    def update_endpoint(
        self, etag: str, labels: Mapping[str, str], split: Mapping[str, int] | None = None
    ) -> None:
        """Set the endpoint's labels and, if given, its traffic split, in one request.

        The request fails if the endpoint no longer has this etag.
        """
        changed: Json = {"labels": dict(labels)}
        if split is not None:
            changed["trafficSplit"] = dict(split)
        action = "setting the labels" if split is None else "setting the traffic split"
        self._update(etag, changed, action)

    def configure_endpoint(
        self, parts: Collection[str], current: EndpointConfig, config: EndpointConfig
    ) -> None:
        """Set parts of the endpoint's configuration: labels, logging, timeout."""
        changed: Json = {}
        if "labels" in parts:
            changed["labels"] = {**current.labels, **config.labels}
        if "logging" in parts:
            logging = messages.logging_config(self._settings, config)
            changed["predictRequestResponseLoggingConfig"] = logging
        if changed:
            self._update(current.etag, changed, "configuring the endpoint")
        if "timeout" in parts:  # another method than for the other fields
            rpc, url = "EndpointService.UpdateEndpointLongRunning", f"{self._endpoint}:update"
            endpoint = {
                "name": self._settings.endpoint,
                "displayName": self._settings.name,
                "clientConnectionConfig": messages.connection_config(config),
            }
            body = {"endpoint": endpoint}
            self._run(rpc, "POST", url, f"setting the timeout to {config.timeout_s} s", body)

    def _update(self, etag: str, changed: Json, action: str) -> None:
        rpc, mask = "EndpointService.UpdateEndpoint", ",".join(changed)
        body = {"etag": etag, **changed}
        self._client.change(rpc, "PATCH", self._endpoint, action, body, updateMask=mask)

    def delete_endpoint(self) -> None:
        """Delete the endpoint."""
        rpc = "EndpointService.DeleteEndpoint"
        self._run(rpc, "DELETE", self._endpoint, "deleting the endpoint")

    # Deployed models

    def deploy_model(self, version: str, replaced_id: str = "") -> None:
        """Deploy a version without traffic, or in the place of a deployed model and with its traffic."""
        s = self._settings
        action = f"deploying version {version} on {s.min_replicas or 1} x {s.machine_type}"
        if replaced_id:
            action = f"replacing the replicas of deployed model {replaced_id} by version {version}"
        body = {"deployedModel": messages.deployed_model(s, version, replaced_id)}
        base = self._preview if replaced_id or not s.min_replicas else self._base
        usual = f"{DEPLOYMENT_TIME}, then {estimate_cost([(s.machine, s.min_replicas)]).per_hour}"
        self._change_deployment("DeployModel", action, body, usual, base)

    def set_replicas(self, deployed_id: str, replicas: Replicas) -> None:
        """Change a deployed model's number of replicas, its scaling targets and whether it logs."""
        deployed = {
            "id": deployed_id,
            "dedicatedResources": messages.resources(self._settings.machine, replicas),
            "disableContainerLogging": not replicas.container_logging,
        }
        body = {"deployedModel": deployed, "updateMask": ",".join(MUTABLE_FIELDS)}
        action = f"scaling deployed model {deployed_id} to {replicas.minimum} to {replicas.maximum} replicas"
        base = self._base if replicas.minimum else self._preview
        self._change_deployment("MutateDeployedModel", action, body, base=base)

    def undeploy_model(self, model: DeployedModel) -> None:
        """Undeploy a deployed model."""
        action = f"undeploying version {model.version}"
        body = {"deployedModelId": model.id}
        self._change_deployment("UndeployModel", action, body, "a few minutes")

    def _change_deployment(
        self, method: str, action: str, body: Json, usual: str = "", base: str = ""
    ) -> None:
        endpoint = f"{base or self._base}/{self._settings.endpoint}"
        url = f"{endpoint}:{method[0].lower()}{method[1:]}"
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
                    if name in messages.CONTAINER_FIELDS
                },
            )
            for each in listed
        ]
        return sorted(versions, key=lambda version: int(version.version_id), reverse=True)

    def find_version(self, image: str, versions: list[ModelVersion]) -> str:
        """Return the newest version with this image and the container of the settings; "" if there is none."""
        expected = self._settings.artifact_uri, messages.container_spec(self._settings, image)
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
        model = messages.model(s, image, labels) | {"versionAliases": aliases}
        if schemata:
            model["predictSchemata"] = schemata
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
            timeout_s = request_timeout_s(self._settings)
            return self._client.send(method="POST", url=url, json=body, timeout=timeout_s)
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
        s = self._settings
        job = messages.batch_job(s, batch, f"{s.name}-{time.strftime('%Y%m%d-%H%M%S')}")
        rpc, url = "JobService.CreateBatchPredictionJob", f"{self._location}/batchPredictionJobs"
        started = self._client.change(rpc, "POST", url, "starting the batch prediction job", job)
        return str(started["name"]) if started is not None else ""


def job_state(job: Json) -> str:
    """Return a batch prediction job's state, such as RUNNING or SUCCEEDED."""
    return str(job["state"]).removeprefix("JOB_STATE_")
