"""Vertex AI Pipelines: the steps' image, a job, a schedule. All by Google's own SDK."""

import contextlib
import logging
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from google.api_core import exceptions
from google.auth.credentials import AnonymousCredentials
from google.cloud import aiplatform, storage
from google.cloud import aiplatform_v1 as v1

from deploy import settings
from deploy.buckets import get_or_create
from deploy.error_messages import to_user_error
from deploy.errors import UserError
from deploy.fingerprint import CACHES, fingerprint
from deploy.gcp import Google
from deploy.gcp.client import said
from deploy.image import in_cloud
from pipeline.steps import ROOT

STEPS_IMAGE = "pipeline/cloudbuild.yaml"
POLL_S = 15
CONSOLE = "https://console.cloud.google.com/vertex-ai/locations/{s.region}/pipelines/runs/{job}?project={s.project}"
OVER = ("SUCCEEDED", "FAILED", "CANCELLED")


def connected(project: str | None, region: str | None) -> Google:
    """Return Google as deploy.toml and the options have it; raise Stop."""
    google = Google(settings.read({"project": project, "region": region}))
    s = google.settings
    settings.remember(s)
    # What the SDK tells is told here in fewer words; each of its modules has a logger with a level of its own.
    for name in list(logging.root.manager.loggerDict):
        if name.startswith("google.cloud.aiplatform"):
            logging.getLogger(name).setLevel(logging.WARNING)
    # A stand-in takes no credentials, and speaks no gRPC.
    credentials = AnonymousCredentials() if s.api_endpoint.startswith("http://") else None
    aiplatform.init(
        project=s.project,
        location=s.region,
        api_endpoint=s.api_endpoint or None,
        api_transport="rest",
        credentials=credentials,
    )
    return google


def steps_image(google: Google) -> str:
    """Return the image that the steps run in, by its digest; Cloud Build makes it where it is not there."""
    name = f"{google.settings.name}-pipeline"
    own = Google(google.settings.model_copy(update={"name": name}), google.say)
    image, tag = own.settings.image_name, steps_tag()
    if own.digest(tag) is None:
        own.say(f"the steps' image is not in the registry: {image}:{tag}")
        in_cloud(own, {"_IMAGE": image, "_TAG": tag}, config=STEPS_IMAGE)
    if (digest := own.digest(tag)) is None:
        raise UserError(
            "the steps' image was built, but is not in the registry", "read the build's log"
        )
    return f"{image}@{digest}"


def steps_tag() -> str:
    """Return the tag of the steps' image for what is here now: pipeline/Dockerfile copies all of it."""
    names = sorted({each.name for each in ROOT.iterdir()} - CACHES - {"docs"})
    return f"src-{fingerprint(ROOT, names)}"


def job(
    google: Google, template: Path, parameters: dict[str, Any], root: str | None = None
) -> aiplatform.PipelineJob:
    """Return a job that is not submitted yet; raise Stop where its parameters are not the pipeline's."""
    s = google.settings
    try:
        return aiplatform.PipelineJob(
            display_name=s.name,
            template_path=str(template),
            parameter_values=parameters,
            pipeline_root=root or f"gs://{_bucket(google)}/{s.name}",
            failure_policy="fast",
        )
    except ValueError as error:
        raise UserError(
            f"the SDK does not take the pipeline: {error}", "mend what it says"
        ) from None


def submit(
    google: Google, job: aiplatform.PipelineJob, account: str | None, *, wait: bool = False
) -> None:
    """Submit a job, and watch it to its end if asked to; raise Stop where it fails."""
    s = google.settings
    wanted = v1.PipelineJob(
        display_name=s.name,
        pipeline_spec=job.pipeline_spec,
        runtime_config=job.runtime_config,
        service_account=account or "",
        labels={"name": s.name},
    )
    # Not job.submit(): it looks for the bucket by way of a host that cannot be named to it, and goes on
    # whatever it finds. _bucket has seen to it.
    with _explained(google, "submitting the pipeline"):
        made = job.api_client.create_pipeline_job(
            parent=s.location, pipeline_job=wanted, pipeline_job_id=job.job_id
        )
    google.say(f"submitted: {made.name}\n  {CONSOLE.format(s=s, job=job.job_id)}")
    if not wait:
        google.say("  it goes on there, whatever happens here; --wait watches it")
        return
    told: dict[str, str] = {}
    while (state := _state(made.state)) not in OVER:
        time.sleep(POLL_S if not s.api_endpoint else 0.2)
        with _explained(google, "watching the pipeline"):
            made = job.api_client.get_pipeline_job(name=made.name)
        _tell(google, made, told)
    if state != "SUCCEEDED":
        raise UserError(
            f"the pipeline ended as {state.lower()}: {made.error.message}",
            "its page, above, has the log of the step",
        )
    google.say("the pipeline succeeded")


def schedule(google: Google, job: aiplatform.PipelineJob, cron: str, account: str | None) -> None:
    """Have Google run a job by the clock, one at a time."""
    made = aiplatform.PipelineJobSchedule(pipeline_job=job, display_name=google.settings.name)
    with _explained(google, "scheduling the pipeline"):
        made.create(cron=cron, max_concurrent_run_count=1, service_account=account)
    google.say(f"scheduled: {made.resource_name}, {cron}")
    google.say("  each run costs what its steps take; `python -m pipeline unschedule` ends it")


def schedules(google: Google, *, end: bool = False) -> None:
    """Print what runs by the clock, or end it."""
    s = google.settings
    with _explained(google, "looking at the schedules"):
        found = aiplatform.PipelineJobSchedule.list(filter=f'display_name="{s.name}"')
    for each in found:
        if end:
            with _explained(google, "ending the schedule"):
                each.delete()
            google.say(f"ended: {each.resource_name}")
        else:
            google.say(f"{each.resource_name}  {_state(each.state).lower()}  {each.cron}")
    if end or not found:
        google.say(f"nothing of {s.name} runs by the clock in {s.region}")


def _bucket(google: Google) -> str:
    """Return the project's bucket for what pipelines make, created where it is missing; raise Stop."""
    s = google.settings
    anonymous = AnonymousCredentials() if s.api_endpoint.startswith("http://") else None
    name, other = f"{s.project}-pipeline", "--pipeline-root gs://a-bucket-of-yours/folder"
    with contextlib.closing(storage.Client(project=s.project, credentials=anonymous)) as client:
        # own: whoever guesses the name may have been faster.
        get_or_create(client, name, s.region, google.say, project=s.project, own=True, other=other)
    return name


def _tell(google: Google, job: v1.PipelineJob, told: dict[str, str]) -> None:
    """Say which steps went on since the last time."""
    for task in job.job_detail.task_details:
        state = _state(task.state)
        if told.get(task.task_name, "PENDING") != state:
            told[task.task_name] = state
            google.say(f"  {state.lower():10} {task.task_name}")


def _state(state: Any) -> str:
    """Return an enum's name without what all of its names begin with."""
    return str(state.name).removeprefix("PIPELINE_STATE_")


@contextlib.contextmanager
def _explained(google: Google, doing: str) -> Iterator[None]:
    try:
        yield
    except exceptions.GoogleAPICallError as error:
        raise to_user_error(said(error, doing), google.settings) from None
