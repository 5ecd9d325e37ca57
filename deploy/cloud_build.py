"""Builds with Cloud Build, by gcloud."""

import json
import shlex
import shutil
import time
from collections.abc import Mapping
from pathlib import Path
from typing import TypedDict

from deploy import builder
from deploy.clients import CloudClients
from deploy.errors import UserError
from deploy.fingerprint import CPU_TORCH, git_commit, image_tag
from deploy.settings import Settings, model_settings
from deploy.text import format_duration, format_elapsed
from project.model_folder import Model

IGNORE_FILE = ".gcloudignore"
LOG_DELAY_S = 10
"""The time until Cloud Logging has the last lines of a build."""
ONGOING = 'status="WORKING" OR status="QUEUED"'
"""The filter of builds that have not ended."""
FINAL_STATES = ("SUCCESS", "FAILURE", "INTERNAL_ERROR", "TIMEOUT", "CANCELLED", "EXPIRED")
"""Of a build."""


class Step(TypedDict, total=False):
    """A build's step, as Google returns it."""

    id: str
    name: str
    status: str


class Build(TypedDict, total=False):
    """A build, as Google returns it; only the fields that are read here."""

    id: str
    status: str
    statusDetail: str
    failureInfo: dict[str, str]
    logUrl: str
    steps: list[Step]
    substitutions: dict[str, str]


def build_image(cloud: CloudClients, deploy: str = "no") -> None:
    """Build the image with Cloud Build; `deploy` is the command that runs afterwards."""
    ignore_file = write_ignore_file(cloud.settings.sources)
    submit_build(cloud, build_substitutions(cloud.settings, deploy), ignore_file=ignore_file)


def write_ignore_file(model: Model) -> Path:
    """Write the list of the files that are not uploaded; return its path.

    The folders of models are not uploaded, and of build/ only what the image of this model is built from.
    """
    own, copy = model_settings(model), model.build / "deploy.toml"
    if own != copy:
        copy.unlink(missing_ok=True)
        if own.is_file():
            shutil.copyfile(own, copy)
    packages = (model.packages, model.distributions)
    needed = (*model.archives, *packages, model.requests, model.request, copy)
    lines = ["/model", f"!/{model.build}", f"/{model.build}/*", *(f"!/{path}" for path in needed)]
    file = model.build / "gcloudignore"
    file.write_text("\n".join([Path(IGNORE_FILE).read_text(), *lines, ""]))
    return file


def submit_build(
    cloud: CloudClients,
    substitutions: Mapping[str, str],
    config: str = "cloudbuild.yaml",
    ignore_file: Path = Path(IGNORE_FILE),
) -> None:
    """Build the current folder with Cloud Build, and wait for the end of the build.

    If a build with these substitutions is running already, wait for that one instead.
    """
    s = cloud.settings
    cloud.artifacts.ensure_repository()
    pairs = ",".join(f"{name}={value}" for name, value in substitutions.items())
    command = [
        *("gcloud", "builds", "submit", "--async", "--format=json"),
        *_location(s),
        f"--gcs-source-staging-dir={source_folder(s)}",
        f"--config={config}",
        f"--ignore-file={ignore_file}",
        f"--substitutions={pairs}",
        ".",
    ]
    if s.build_service_account:
        account = f"projects/{s.project}/serviceAccounts/{s.build_service_account}"
        command.append(f"--service-account={account}")
    if cloud.dry_run:
        cloud.report(f"would run {' '.join(command)}")
        return
    build = find_running_build(cloud, substitutions)
    if build:
        cloud.report("→ waiting for the running build of this image")
    else:
        cloud.report(f"→ building with Cloud Build ({builder.CLOUD_BUILD})")
        build = json.loads(cloud.programs.run(command))
    _wait_for_build(cloud, build)


def find_running_build(cloud: CloudClients, substitutions: Mapping[str, str]) -> Build | None:
    """Return the build with these substitutions that has not ended; None if there is none."""
    builds: list[Build] = cloud.jobs.list_builds(filter=ONGOING)
    for build in builds:
        if build.get("substitutions", {}).items() >= substitutions.items():
            return build
    return None


def find_tested_build(cloud: CloudClients, tag: str) -> Build | None:
    """Return a build of this tag whose step `tests` succeeded; None if there is none."""
    builds: list[Build] = cloud.jobs.list_builds(limit=200)
    for build in builds:
        statuses = {step.get("id"): step.get("status") for step in build.get("steps", [])}
        has_tag = build.get("substitutions", {}).get("_TAG") == tag
        if has_tag and statuses.get("tests") == "SUCCESS":
            return build
    return None


def source_folder(settings: Settings) -> str:
    """Return the gs:// folder to which the sources of builds are uploaded."""
    return f"gs://{settings.project}_cloudbuild/{settings.name}-source"


def build_substitutions(settings: Settings, deploy: str = "no") -> dict[str, str]:
    """Return the substitutions of cloudbuild.yaml; `deploy` is the command to run after the build."""
    values = {
        "_MODEL": settings.sources.name,
        "_NAME": settings.name,
        "_REGION": settings.region,
        "_REPOSITORY": settings.repository,
        "_TAG": image_tag(settings.sources, settings.torch_build),
        "_DEPLOY": deploy,
        "_REVISION": git_commit(),
    }
    names = ("_TORCH_LOCK", "_TORCH", "_TORCH_INDEX")
    torch = zip(names, settings.torch_build, CPU_TORCH, strict=True)
    values |= {name: value for name, value, default in torch if value != default}
    if settings.registry:
        values["_REGISTRY"] = settings.registry
    return values


def _wait_for_build(cloud: CloudClients, build: Build) -> None:
    """Report a build's steps and its log until it ends; raise UserError if it fails."""
    from deploy.gcp.logging import BuildLog  # noqa: PLC0415  slow: Google's libraries

    cloud.report(f"  build {build['id']}, in the console: {build.get('logUrl', '')}")
    log, started_s = BuildLog(cloud.client, build["id"]), time.monotonic()
    steps: dict[str, tuple[str, float]] = {}
    unreadable: list[str] = []

    def report_log() -> None:
        """Report the new lines of the log; after the first error, none."""
        if unreadable:
            return
        try:
            for line in log.read_new_lines():
                cloud.report(f"  | {line}")
        except UserError as error:
            unreadable.append(error.message)
            cloud.report(f"  the build's log cannot be read: {error.message}")

    def fetch() -> Build:
        current: Build = cloud.jobs.find_build(build["id"])
        report_log()
        for step in current.get("steps", []):
            name, status = step.get("id", step["name"]), step.get("status", "QUEUED")
            before, since_s = steps.get(name, ("QUEUED", started_s))
            if status != before:
                after = (
                    f", {format_duration(time.monotonic() - since_s)}"
                    if before == "WORKING"
                    else ""
                )
                cloud.report(f"  {status.lower():8} {name}{after}")
                steps[name] = status, time.monotonic()
        return current

    timed_out = UserError(
        f"timed out after {cloud.settings.wait_minutes} minutes; the build continues in Cloud Build",
        "run the same command again: it waits for the same build; make teardown cancels it",
    )
    ended = cloud.client.poll(
        fetch,
        lambda current: current["status"] in FINAL_STATES,
        timed_out,
        lambda _: format_elapsed(started_s),
    )
    if ended["status"] != "SUCCESS":
        if not cloud.settings.api_endpoint:
            time.sleep(LOG_DELAY_S)
        report_log()
        detail = ended.get("statusDetail") or ended.get("failureInfo", {}).get("detail", "")
        reason = f"Cloud Build ended with {ended['status']}{f': {detail}' if detail else ''}"
        raise UserError(reason, shlex.join(log.command))
    cloud.report(f"  built after {format_duration(time.monotonic() - started_s)}")


def _location(settings: Settings) -> list[str]:
    return [f"--project={settings.project}", f"--region={settings.region}"]
