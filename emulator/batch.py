"""Batch prediction: JSON lines from a bucket through a container of the model, and back into a bucket."""

import json
import threading
from typing import Any

from google.cloud import aiplatform_v1 as v1

from emulator import artifacts, containers
from emulator.errors import invalid_argument, unimplemented
from emulator.jobs import Jobs, stop_if
from emulator.state import State, canonical_name, find_model

TIMEOUT_S = 60


def create(state: State, request: v1.CreateBatchPredictionJobRequest) -> v1.BatchPredictionJob:
    """Begin a job; a client asks for its state."""
    job = v1.BatchPredictionJob(request.batch_prediction_job)
    model = find_model(state, job.model)
    if "dedicated_resources" not in job:
        raise invalid_argument("Models of custom containers need dedicated_resources.")
    formats = (job.input_config.instances_format, job.output_config.predictions_format)
    if formats != ("jsonl", "jsonl"):
        raise unimplemented("the rehearsal reads and writes jsonl only")
    job.name = f"{canonical_name(request.parent)}/batchPredictionJobs/{state.next_id()}"
    job.model, job.model_version_id = f"{model.name}@{model.version_id}", model.version_id
    return JOBS.begin(state, job, lambda cancelled: _run(state, job, model, cancelled))


def _run(
    state: State, job: v1.BatchPredictionJob, model: v1.Model, cancelled: threading.Event
) -> None:
    content = b"\n".join(
        artifacts.read_objects(state.config, list(job.input_config.gcs_source.uris))
    )
    instances = [json.loads(line) for line in content.splitlines() if line.strip()]
    containers.pull_image(state.config, model.container_spec.image_uri)
    machine = job.dedicated_resources.machine_spec
    deployed = v1.DeployedModel(
        id="0", dedicated_resources=v1.DedicatedResources(machine_spec=machine)
    )
    storage = artifacts.copy_artifacts(state.config, model)
    env = containers.container_env(v1.Endpoint(name=job.name), deployed, model, storage)
    replica = containers.Replica(state.config, model, env, machine)
    good: list[str] = []
    bad: list[str] = []
    try:
        replica.start(cancelled)
        size = job.manual_batch_tuning_parameters.batch_size or 64
        for first in range(0, len(instances), size):
            stop_if(cancelled)
            well, lines = _predict(replica, job, instances[first : first + size])
            (good if well else bad).extend(lines)
    finally:
        replica.stop()
    job.completion_stats.successful_count, job.completion_stats.failed_count = len(good), len(bad)
    where = job.output_config.gcs_destination.output_uri_prefix.rstrip("/")
    folder = f"{where}/prediction-{model.display_name}-{job.name.rsplit('/', 1)[-1]}"
    files = {
        "prediction.results-00000-of-00001": good,
        "prediction.errors_stats-00000-of-00001": bad,
    }
    for name, written in files.items():
        text = "".join(f"{line}\n" for line in written)
        artifacts.write_object(state.config, f"{folder}/{name}", text.encode())
    job.output_info.gcs_output_directory = folder


def _predict(
    replica: containers.Replica, job: v1.BatchPredictionJob, instances: list[Any]
) -> tuple[bool, list[str]]:
    """Send one batch; return whether it was answered, and a line for each of its instances."""
    body: dict[str, Any] = {"instances": instances}
    if job.model_parameters:
        body["parameters"] = v1.BatchPredictionJob.to_dict(job)["model_parameters"]
    response = replica.predict(json.dumps(body).encode(), "application/json", TIMEOUT_S)
    well, answer = response.status_code == 200, response.json()
    key, each = (
        ("prediction", answer["predictions"]) if well else ("error", [answer] * len(instances))
    )
    pairs = zip(instances, each, strict=True)
    return well, [json.dumps({"instance": instance, key: value}) for instance, value in pairs]


LISTING = v1.ListBatchPredictionJobsResponse
JOBS = Jobs("BatchPredictionJob", lambda state: state.batch_jobs, LISTING, v1.JobState)
METHODS = {"CreateBatchPredictionJob": create, **JOBS.methods()}
