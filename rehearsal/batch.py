"""Batch prediction: JSON lines from a bucket through a container of the model, and back into a bucket."""

import http.client
import json
import threading
from typing import Any

from google.cloud import aiplatform_v1 as v1
from google.longrunning import operations_pb2
from google.protobuf.empty_pb2 import Empty
from google.rpc import status_pb2

from rehearsal import artifacts, containers, operations
from rehearsal.errors import Refused, not_found
from rehearsal.world import World, canonical, model_of, now, page

OVER = (
    v1.JobState.JOB_STATE_SUCCEEDED,
    v1.JobState.JOB_STATE_FAILED,
    v1.JobState.JOB_STATE_CANCELLED,
)
_cancelled: dict[str, threading.Event] = {}


def create(world: World, request: v1.CreateBatchPredictionJobRequest) -> v1.BatchPredictionJob:
    """Begin a job; a client asks for its state."""
    job = v1.BatchPredictionJob(request.batch_prediction_job)
    model = model_of(world, job.model)
    if "dedicated_resources" not in job:
        raise Refused("INVALID_ARGUMENT", "Models of custom containers need dedicated_resources.")
    if (
        job.input_config.instances_format != "jsonl"
        or job.output_config.predictions_format != "jsonl"
    ):
        raise Refused("UNIMPLEMENTED", "the rehearsal reads and writes jsonl only")
    job.name = f"{canonical(request.parent)}/batchPredictionJobs/{world.serial()}"
    job.model, job.model_version_id = f"{model.name}@{model.version_id}", model.version_id
    job.state, job.create_time = v1.JobState.JOB_STATE_PENDING, now()
    world.jobs[job.name] = job
    _cancelled[job.name] = threading.Event()
    operations.start(
        world,
        job.name,
        v1.DeleteOperationMetadata(),
        "BatchPredictionJob",
        lambda _: _run(world, job, model),
    )
    return v1.BatchPredictionJob(job)


def get(world: World, request: v1.GetBatchPredictionJobRequest) -> v1.BatchPredictionJob:
    """Return a job."""
    job = world.jobs.get(canonical(request.name))
    if job is None:
        raise not_found("BatchPredictionJob", request.name)
    return job


def list_(
    world: World, request: v1.ListBatchPredictionJobsRequest
) -> v1.ListBatchPredictionJobsResponse:
    """Return a location's jobs."""
    under = canonical(request.parent)
    found, token = page(
        (job for name, job in world.jobs.items() if name.startswith(f"{under}/")), request
    )
    return v1.ListBatchPredictionJobsResponse(batch_prediction_jobs=found, next_page_token=token)


def cancel(world: World, request: v1.CancelBatchPredictionJobRequest) -> Empty:
    """Ask a job to end."""
    job = get(world, v1.GetBatchPredictionJobRequest(name=request.name))
    _cancelled[job.name].set()
    return Empty()


def delete(world: World, request: v1.DeleteBatchPredictionJobRequest) -> operations_pb2.Operation:
    """Delete a job that is over."""
    job = get(world, v1.GetBatchPredictionJobRequest(name=request.name))
    if job.state not in OVER:
        raise Refused("FAILED_PRECONDITION", f"{job.name} is not over: cancel it first.")
    world.jobs.pop(job.name)
    metadata = v1.DeleteOperationMetadata()
    # Jobs have no operations of their own in Google's clients' routes: the location has.
    parent = job.name.partition("/batchPredictionJobs/")[0]
    return operations.start(world, parent, metadata, "DeleteBatchPredictionJob", lambda _: Empty())


def _run(world: World, job: v1.BatchPredictionJob, model: v1.Model) -> Empty:
    job.state, job.start_time = v1.JobState.JOB_STATE_RUNNING, now()
    replica: containers.Replica | None = None
    try:
        lines = b"\n".join(artifacts.read(world.rules, list(job.input_config.gcs_source.uris)))
        instances = [json.loads(line) for line in lines.splitlines() if line.strip()]
        containers.fetch(world.rules, model.container_spec.image_uri)
        machine = job.dedicated_resources.machine_spec
        deployed = v1.DeployedModel(
            id="0", dedicated_resources=v1.DedicatedResources(machine_spec=machine)
        )
        env = containers.variables(
            v1.Endpoint(name=job.name), deployed, model, artifacts.copy(world.rules, model)
        )
        replica = containers.Replica(world.rules, model, env, machine)
        replica.start(_cancelled[job.name])
        good, bad = _all(replica, job, instances)
        stats = job.completion_stats
        stats.successful_count, stats.failed_count = len(good), len(bad)
        where = job.output_config.gcs_destination.output_uri_prefix.rstrip("/")
        folder = f"{where}/prediction-{model.display_name}-{job.name.rsplit('/', 1)[-1]}"
        artifacts.write(
            world.rules,
            folder,
            {
                "prediction.results-00000-of-00001": "".join(f"{line}\n" for line in good).encode(),
                "prediction.errors_stats-00000-of-00001": "".join(
                    f"{line}\n" for line in bad
                ).encode(),
            },
        )
        job.output_info.gcs_output_directory = folder
        job.state = v1.JobState.JOB_STATE_SUCCEEDED
    except Refused as error:
        cancelled = error.status == "CANCELLED"
        job.error = status_pb2.Status(code=error.code, message=error.message)
        job.state = v1.JobState.JOB_STATE_CANCELLED if cancelled else v1.JobState.JOB_STATE_FAILED
    finally:
        job.end_time = now()
        if job.state not in OVER:
            job.state = v1.JobState.JOB_STATE_FAILED
        if replica:
            replica.stop()
    return Empty()


def _all(
    replica: containers.Replica, job: v1.BatchPredictionJob, instances: list[Any]
) -> tuple[list[str], list[str]]:
    """Return the lines of what was predicted, and of what was not; raise Refused once cancelled."""
    good: list[str] = []
    bad: list[str] = []
    size = job.manual_batch_tuning_parameters.batch_size or 64
    for first in range(0, len(instances), size):
        if _cancelled[job.name].is_set():
            raise Refused("CANCELLED", "The job was cancelled.")
        _predict(replica, job, instances[first : first + size], good, bad)
    return good, bad


def _predict(
    replica: containers.Replica,
    job: v1.BatchPredictionJob,
    instances: list[Any],
    good: list[str],
    bad: list[str],
) -> None:
    """Send one batch and write a line for each of its instances."""
    body: dict[str, Any] = {"instances": instances}
    if job.model_parameters:
        body["parameters"] = v1.BatchPredictionJob.to_dict(job)["model_parameters"]
    connection = http.client.HTTPConnection(*replica.address, timeout=60)
    try:
        headers = {"Content-Type": "application/json"}
        connection.request("POST", replica.env["AIP_PREDICT_ROUTE"], json.dumps(body), headers)
        response = connection.getresponse()
        said = json.loads(response.read())
    finally:
        connection.close()
    if response.status == 200:
        pairs = zip(instances, said["predictions"], strict=True)
        good += [
            json.dumps({"instance": instance, "prediction": prediction})
            for instance, prediction in pairs
        ]
    else:
        bad += [json.dumps({"instance": instance, "error": said}) for instance in instances]


METHODS = {
    "CreateBatchPredictionJob": create,
    "GetBatchPredictionJob": get,
    "ListBatchPredictionJobs": list_,
    "CancelBatchPredictionJob": cancel,
    "DeleteBatchPredictionJob": delete,
}
