"""Batch prediction: instances from a bucket, through a container of the model, into a bucket."""

import json
import threading
from typing import Any

import requests
from google.cloud import aiplatform_v1 as v1
from google.protobuf import json_format

from emulator import artifacts, batch_formats, containers, images, machines, prediction
from emulator.batch_formats import Instance
from emulator.errors import ApiError, invalid_argument
from emulator.jobs import JobType, raise_if_cancelled
from emulator.routes import not_supported
from emulator.state import State, canonical_name, find_model, get_region

TIMEOUT_S = 60
"""How long the container may take for one request."""
MAX_REPLICAS, BATCH_SIZE = 10, 64
"""Google's defaults."""


def create(state: State, request: v1.CreateBatchPredictionJobRequest) -> v1.BatchPredictionJob:
    """Start a job."""
    job = v1.BatchPredictionJob(request.batch_prediction_job)
    if "unmanaged_container_model" in job:
        raise not_supported("batch prediction with an unmanaged_container_model")
    if not job.model:
        raise invalid_argument("Exactly one of model and unmanaged_container_model must be set.")
    model = find_model(state, job.model)
    _check_resources(job, get_region(request.parent))
    batch_formats.check(job)
    if job.generate_explanation:
        if "explanation_spec" not in job and "explanation_spec" not in model:
            raise invalid_argument("generate_explanation needs an explanation_spec.")
        raise not_supported("explanations of batch predictions")
    job.name = f"{canonical_name(request.parent)}/batchPredictionJobs/{state.next_id()}"
    job.model, job.model_version_id = f"{model.name}@{model.version_id}", model.version_id
    return JOBS.start(state, job, lambda cancelled: _run(state, job, model, cancelled))


def _check_resources(job: v1.BatchPredictionJob, region: str) -> None:
    if "dedicated_resources" not in job:
        raise invalid_argument("Models of custom containers need dedicated_resources.")
    resources = job.dedicated_resources
    if not resources.machine_spec.machine_type:
        raise invalid_argument(
            "Required field is not set: dedicated_resources.machine_spec.machine_type."
        )
    machines.check(resources.machine_spec, region)
    resources.max_replica_count = resources.max_replica_count or MAX_REPLICAS
    if resources.starting_replica_count > resources.max_replica_count:
        raise invalid_argument("starting_replica_count must not be greater than max_replica_count.")


def _run(
    state: State, job: v1.BatchPredictionJob, model: v1.Model, cancelled: threading.Event
) -> None:
    instances = batch_formats.read_instances(state.config, job)
    images.pull_image(state.config, model.container_spec.image_uri)
    machine = job.dedicated_resources.machine_spec
    resources = v1.DedicatedResources(machine_spec=machine)
    deployed = v1.DeployedModel(id="0", dedicated_resources=resources)
    artifacts_uri = artifacts.copy_artifacts(state.config, model)
    env = containers.container_env(v1.Endpoint(name=job.name), deployed, model, artifacts_uri)
    replica = containers.Replica(state.config, model, env, machine)
    predictions: list[str] = []
    errors: list[str] = []
    try:
        replica.start(cancelled)
        size = job.manual_batch_tuning_parameters.batch_size or BATCH_SIZE
        for first in range(0, len(instances), size):
            raise_if_cancelled(cancelled)
            succeeded, lines = _predict(replica, job, instances[first : first + size])
            (predictions if succeeded else errors).extend(lines)
    finally:
        replica.stop()
    job.completion_stats.successful_count = len(predictions)
    job.completion_stats.failed_count = len(errors)
    prefix = job.output_config.gcs_destination.output_uri_prefix.rstrip("/")
    created = job.create_time.isoformat(timespec="milliseconds").replace("+00:00", "Z")
    folder = f"{prefix}/prediction-{model.display_name}-{created}"
    files = {
        "prediction.results-00000-of-00001": predictions,
        "prediction.errors_stats-00000-of-00001": errors,
    }
    for name, lines in files.items():
        text = "".join(f"{line}\n" for line in lines)
        artifacts.write_object(state.config, f"{folder}/{name}", text.encode())
    job.output_info.gcs_output_directory = folder


def _predict(
    replica: containers.Replica, job: v1.BatchPredictionJob, instances: list[Instance]
) -> tuple[bool, list[str]]:
    """Send one batch; return whether it succeeded, and one line of JSON per instance."""
    try:
        predictions = _request_predictions(replica, job, [each.value for each in instances])
    except ApiError as error:
        failure = {"error": {"code": error.code, "message": error.message}}
        return False, [json.dumps(each.output | failure) for each in instances]
    pairs = zip(instances, predictions, strict=True)
    return True, [json.dumps(each.output | {"prediction": result}) for each, result in pairs]


def _request_predictions(
    replica: containers.Replica, job: v1.BatchPredictionJob, values: list[Any]
) -> list[Any]:
    """Return the predictions for instances; raise ApiError."""
    body: dict[str, Any] = {"instances": values}
    parameters = json_format.MessageToDict(v1.BatchPredictionJob.pb(job)).get("modelParameters")
    if parameters is not None:
        body["parameters"] = parameters
    request = containers.ContainerRequest(json.dumps(body).encode(), containers.JSON_TYPE)
    try:
        response = replica.predict(request, TIMEOUT_S)
    except requests.RequestException as error:
        raise ApiError("UNAVAILABLE", f"The container did not answer: {error!r}") from None
    if response.status_code != 200:
        raise prediction.to_error(response)
    predictions = prediction.parse_predictions(response.content)["predictions"]
    if len(predictions) != len(values):
        raise ApiError(
            "INTERNAL",
            f"The container gave {len(predictions)} predictions for {len(values)} instances.",
        )
    return list(predictions)


JOBS = JobType(
    "BatchPredictionJob",
    lambda state: state.batch_jobs,
    v1.ListBatchPredictionJobsResponse,
    v1.JobState,
)
METHODS = {"CreateBatchPredictionJob": create, **JOBS.methods()}
