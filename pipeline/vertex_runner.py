"""Vertex AI Pipelines with Google's SDK: build the steps' image, submit jobs, and manage schedules."""

import contextlib
import logging
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from google.api_core import exceptions
from google.cloud import aiplatform, storage
from google.cloud import aiplatform_v1 as v1

from deploy import cli, settings
from deploy.buckets import TIMEOUT_S, get_or_create_bucket, storage_errors
from deploy.clients import CloudClients
from deploy.cloud_build import submit_build
from deploy.errors import UserError
from deploy.fingerprint import CACHES, fingerprint
from pipeline.steps import ROOT
from project.model_folder import Model

BUILD_CONFIG = "pipeline/cloudbuild.yaml"
STEPS_IMAGE = "pipeline-steps"
"""The name of the image that the steps run in, for all models: it holds none."""
POLL_INTERVAL_S = 15
CONSOLE_URL = "https://console.cloud.google.com/vertex-ai/locations/{s.region}/pipelines/runs/{job}?project={s.project}"
FINAL_STATES = ("SUCCEEDED", "FAILED", "CANCELLED")


def connect(project: str | None, region: str | None, model: Model) -> CloudClients:
    """Return the client for the project and region of the options or deploy.toml, and configure the SDK for it.

    Its setting `name` is that of the model: the pipeline's jobs, schedules and artifacts are named after it.
    """
    target = {"project": project, "region": region, "name": model.name, "model": str(model.path)}
    cloud = CloudClients.create(settings.load(target))
    s = cloud.settings
    cli.report_place(s)
    # This module logs the same events in fewer words. Each module of the SDK has a logger with a level of its own.
    for name in list(logging.root.manager.loggerDict):
        if name.startswith("google.cloud.aiplatform"):
            logging.getLogger(name).setLevel(logging.WARNING)
    aiplatform.init(
        project=s.project,
        location=s.region,
        api_endpoint=s.api_endpoint or None,
        api_transport="rest",  # the emulator does not support gRPC
        credentials=cloud.client.credentials,
    )
    return cloud


def ensure_steps_image(cloud: CloudClients) -> str:
    """Return the URI, with digest, of the image that the steps run in; build it with Cloud Build if it is missing."""
    renamed = cloud.settings.model_copy(update={"name": STEPS_IMAGE})
    steps = CloudClients.create(renamed, cloud.report)
    image, tag = steps.settings.image_name, steps_tag()
    if steps.artifacts.find_digest(tag) is None:
        steps.report(f"the steps' image is not in the registry: {image}:{tag}")
        submit_build(steps, {"_IMAGE": image, "_TAG": tag}, config=BUILD_CONFIG)
    if (digest := steps.artifacts.find_digest(tag)) is None:
        reason = f"the steps' image was built, but {image}:{tag} is not in the registry"
        raise UserError(reason, "read the build's log")
    return f"{image}@{digest}"


def steps_tag() -> str:
    """Return the tag of the steps' image for the current sources: pipeline/Dockerfile copies the repository."""
    names = sorted({each.name for each in ROOT.iterdir()} - CACHES - {"docs", "model"})
    return f"src-{fingerprint(ROOT, names)}"


def build_job(
    cloud: CloudClients, template: Path, parameters: dict[str, Any], root: str
) -> aiplatform.PipelineJob:
    """Return a job, not submitted yet; raise UserError if the parameters do not match the pipeline."""
    s = cloud.settings
    try:
        return aiplatform.PipelineJob(
            display_name=s.name,
            template_path=str(template),
            parameter_values=parameters,
            pipeline_root=root,
            failure_policy="fast",
        )
    except ValueError as error:
        hint = "fix these options"
        raise UserError(f"the SDK rejected the pipeline's parameters: {error}", hint) from None


def submit(
    cloud: CloudClients, job: aiplatform.PipelineJob, account: str | None, *, wait: bool = False
) -> None:
    """Submit a job, and wait until it ends if `wait`; raise UserError if it fails."""
    s = cloud.settings
    request = v1.PipelineJob(
        display_name=s.name,
        pipeline_spec=job.pipeline_spec,
        runtime_config=job.runtime_config,
        service_account=account or "",
        labels={"name": s.name},
    )
    # Not job.submit(): it checks the bucket at a host that cannot be configured, and continues whatever the result.
    # get_or_create_root did that check.
    with _translate_errors(cloud, "submitting the pipeline"):
        submitted = job.api_client.create_pipeline_job(
            parent=s.location, pipeline_job=request, pipeline_job_id=job.job_id
        )
    cloud.report(f"submitted: {submitted.name}\n  {CONSOLE_URL.format(s=s, job=job.job_id)}")
    if not wait:
        cloud.report("  it runs on Vertex AI, not on this machine; --wait waits for its end")
        return
    states: dict[str, str] = {}
    while (state := _state_name(submitted.state)) not in FINAL_STATES:
        time.sleep(POLL_INTERVAL_S if not s.api_endpoint else 0.2)
        with _translate_errors(cloud, "watching the pipeline"):
            submitted = job.api_client.get_pipeline_job(name=submitted.name)
        _log_changes(cloud, submitted, states)
    if state != "SUCCEEDED":
        reason = f"the pipeline ended in state {state.lower()}: {submitted.error.message}"
        raise UserError(reason, "the step's log is on the page above")
    cloud.report("the pipeline succeeded")


def create_schedule(
    cloud: CloudClients, job: aiplatform.PipelineJob, cron: str, account: str | None
) -> None:
    """Run a job on a schedule, one run at a time."""
    schedule = aiplatform.PipelineJobSchedule(pipeline_job=job, display_name=cloud.settings.name)
    with _translate_errors(cloud, "creating the schedule"):
        schedule.create(cron=cron, max_concurrent_run_count=1, service_account=account)
    cloud.report(f"scheduled: {schedule.resource_name}, {cron}")
    cloud.report("  each run is billed; `python -m pipeline unschedule` deletes the schedule")


def print_schedules(cloud: CloudClients) -> None:
    """Print the pipeline's schedules."""
    schedules = _list_schedules(cloud)
    for schedule in schedules:
        state = _state_name(schedule.state).lower()
        cloud.report(f"{schedule.resource_name}  {state}  {schedule.cron}")
    if not schedules:
        cloud.report(f"no schedules of {cloud.settings.name} in {cloud.settings.region}")


def delete_schedules(cloud: CloudClients) -> None:
    """Delete the pipeline's schedules."""
    for schedule in _list_schedules(cloud):
        with _translate_errors(cloud, "deleting the schedule"):
            schedule.delete()
        cloud.report(f"deleted: {schedule.resource_name}")
    cloud.report(f"no schedules of {cloud.settings.name} in {cloud.settings.region}")


def _list_schedules(cloud: CloudClients) -> list[aiplatform.PipelineJobSchedule]:
    with _translate_errors(cloud, "listing the schedules"):
        expression = f'display_name="{cloud.settings.name}"'
        return list(aiplatform.PipelineJobSchedule.list(filter=expression))


def get_or_create_root(cloud: CloudClients) -> str:
    """Return the folder for artifacts in the project's bucket, which is created if it is missing.

    Raises UserError if another project owns the bucket.
    """
    s = cloud.settings
    name, hint = f"{s.project}-pipeline", "--pipeline-root gs://a-bucket-of-yours/folder"
    with _storage_client(cloud) as client:
        # own_project_only: another project may have taken this predictable name.
        get_or_create_bucket(
            client,
            name,
            s.region,
            cloud.report,
            project=s.project,
            own_project_only=True,
            hint=hint,
        )
    return f"gs://{name}/{s.name}"


def upload_model(cloud: CloudClients, model: Model, root: str) -> str:
    """Upload the model's folder to the folder for artifacts; return where the steps find it.

    Vertex AI mounts buckets at /gcs. The folder's name has a hash of its contents, so that a schedule keeps the
    files that it was created with.
    """
    bucket, _, folder = root.removeprefix("gs://").partition("/")
    target = f"{folder}/source/{fingerprint(model.path, [''])}/{model.name}".lstrip("/")
    with storage_errors(root), _storage_client(cloud) as client:
        for file in sorted(filter(Path.is_file, model.path.rglob("*"))):
            name = file.relative_to(model.path)
            blob = client.bucket(bucket).blob(f"{target}/{name.as_posix()}")
            is_left_out = any(part in CACHES or part.startswith(".") for part in name.parts)
            if not is_left_out and not blob.exists(timeout=TIMEOUT_S):
                blob.upload_from_filename(str(file), checksum="crc32c", timeout=TIMEOUT_S)
    cloud.report(f"uploaded {model.path} to gs://{bucket}/{target}")
    return f"/gcs/{bucket}/{target}"


def _storage_client(cloud: CloudClients) -> contextlib.closing[storage.Client]:
    project, credentials = cloud.settings.project, cloud.client.credentials
    return contextlib.closing(storage.Client(project=project, credentials=credentials))


def _log_changes(cloud: CloudClients, job: v1.PipelineJob, states: dict[str, str]) -> None:
    """Log each step whose state differs from `states`, and update `states`."""
    for task in job.job_detail.task_details:
        state = _state_name(task.state)
        if states.get(task.task_name, "PENDING") != state:
            states[task.task_name] = state
            cloud.report(f"  {state.lower():10} {task.task_name}")


def _state_name(state: Any) -> str:
    """Return the name of an enum's value without the prefix of the type."""
    return str(state.name).removeprefix("PIPELINE_STATE_")


@contextlib.contextmanager
def _translate_errors(cloud: CloudClients, action: str) -> Iterator[None]:
    try:
        yield
    except exceptions.GoogleAPICallError as error:
        raise cloud.client.user_error(error, action) from None
