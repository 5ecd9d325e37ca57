"""Batch prediction: JSON lines from a bucket, through a container of the model, into a bucket."""

import json
import threading
from typing import Any

from google.cloud import aiplatform_v1 as v1

from emulator import artifacts, containers
from emulator.errors import invalid_argument, unimplemented
from emulator.jobs import JobType, raise_if_cancelled
from emulator.state import State, canonical_name, find_model

TIMEOUT_S = 60
"""How long the container may take for one request."""


def create(state: State, request: v1.CreateBatchPredictionJobRequest) -> v1.BatchPredictionJob:
    """Start a job."""
    job = v1.BatchPredictionJob(request.batch_prediction_job)
    model = find_model(state, job.model)
    if "dedicated_resources" not in job:
        raise invalid_argument("Models of custom containers need dedicated_resources.")
    formats = (job.input_config.instances_format, job.output_config.predictions_format)
    if formats != ("jsonl", "jsonl"):
        raise unimplemented("the emulator supports the format jsonl only")
    job.name = f"{canonical_name(request.parent)}/batchPredictionJobs/{state.next_id()}"
    job.model, job.model_version_id = f"{model.name}@{model.version_id}", model.version_id
    return JOBS.start(state, job, lambda cancelled: _run(state, job, model, cancelled))


def _run(
    state: State, job: v1.BatchPredictionJob, model: v1.Model, cancelled: threading.Event
) -> None:
    uris = list(job.input_config.gcs_source.uris)
    content = b"\n".join(artifacts.read_objects(state.config, uris))
    instances = [json.loads(line) for line in content.splitlines() if line.strip()]
    containers.pull_image(state.config, model.container_spec.image_uri)
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
        size = job.manual_batch_tuning_parameters.batch_size or 64
        for first in range(0, len(instances), size):
            raise_if_cancelled(cancelled)
            succeeded, lines = _predict(replica, job, instances[first : first + size])
            (predictions if succeeded else errors).extend(lines)
    finally:
        replica.stop()
    job.completion_stats.successful_count = len(predictions)
    job.completion_stats.failed_count = len(errors)
    prefix = job.output_config.gcs_destination.output_uri_prefix.rstrip("/")
    folder = f"{prefix}/prediction-{model.display_name}-{job.name.rsplit('/', 1)[-1]}"
    files = {
        "prediction.results-00000-of-00001": predictions,
        "prediction.errors_stats-00000-of-00001": errors,
    }
    for name, lines in files.items():
        text = "".join(f"{line}\n" for line in lines)
        artifacts.write_object(state.config, f"{folder}/{name}", text.encode())
    job.output_info.gcs_output_directory = folder


def _predict(
    replica: containers.Replica, job: v1.BatchPredictionJob, instances: list[Any]
) -> tuple[bool, list[str]]:
    """Send one batch; return whether it succeeded, and one line of JSON per instance."""
    body: dict[str, Any] = {"instances": instances}
    if job.model_parameters:
        body["parameters"] = v1.BatchPredictionJob.to_dict(job)["model_parameters"]
    request = containers.ContainerRequest(json.dumps(body).encode(), containers.JSON_TYPE)
    response = replica.predict(request, TIMEOUT_S)
    succeeded, content = response.status_code == 200, response.json()
    key = "prediction" if succeeded else "error"
    results = content["predictions"] if succeeded else [content] * len(instances)
    pairs = zip(instances, results, strict=True)
    return succeeded, [json.dumps({"instance": each, key: result}) for each, result in pairs]


JOBS = JobType(
    "BatchPredictionJob",
    lambda state: state.batch_jobs,
    v1.ListBatchPredictionJobsResponse,
    v1.JobState,
)
METHODS = {"CreateBatchPredictionJob": create, **JOBS.methods()}
