"""Builds with Cloud Build, by gcloud."""

import json
import shlex
import shutil
import time
from collections.abc import Mapping
from pathlib import Path
from typing import TypedDict

from deploy.clients import CloudClients
from deploy.errors import UserError
from deploy.fingerprint import git_commit, image_tag
from deploy.settings import Settings, model_settings
from project.model_folder import Model

IGNORE_FILE = ".gcloudignore"
MAX_LOG_LINES = 40
"""Of the log of a failed build, that are printed."""
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
    needed = (model.archive, *packages, model.requests, model.request, copy)
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
        cloud.report("→ building with Cloud Build (usually 10 to 20 minutes)")
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
        "_TAG": image_tag(settings.sources),
        "_DEPLOY": deploy,
        "_REVISION": git_commit(),
    }
    if settings.registry:
        values["_REGISTRY"] = settings.registry
    return values


def _wait_for_build(cloud: CloudClients, build: Build) -> None:
    """Report a build's steps until it ends; raise UserError if it fails."""
    cloud.report(f"  build {build['id']}, log: {build.get('logUrl', '')}")
    reported: dict[str, str] = {}

    def fetch() -> Build:
        current: Build = cloud.jobs.find_build(build["id"])
        for step in current.get("steps", []):
            name, status = step.get("id", step["name"]), step.get("status", "QUEUED")
            if reported.get(name, "QUEUED") != status:
                reported[name] = status
                cloud.report(f"  {status.lower():8} {name}")
        return current

    timed_out = UserError(
        f"timed out after {cloud.settings.wait_minutes} minutes; the build continues in Cloud Build",
        "run the same command again: it waits for the same build",
    )
    build = cloud.client.poll(fetch, lambda current: current["status"] in FINAL_STATES, timed_out)
    if build["status"] != "SUCCESS":
        detail = build.get("statusDetail") or build.get("failureInfo", {}).get("detail", "")
        reason = f"Cloud Build ended with {build['status']}{f': {detail}' if detail else ''}"
        raise UserError(reason, _report_log(cloud, build["id"]))


def _report_log(cloud: CloudClients, build_id: str) -> str:
    """Report the end of a build's log; return the command that prints all of it."""
    project = cloud.settings.project
    query = f'resource.type="build" AND resource.labels.build_id="{build_id}"'
    command = [
        "gcloud",
        "logging",
        "read",
        query,
        f"--project={project}",
        "--format=value(textPayload)",
    ]
    if not cloud.settings.api_endpoint:
        time.sleep(LOG_DELAY_S)
    try:
        newest_first = cloud.programs.run([*command, f"--limit={MAX_LOG_LINES}"])
    except UserError as error:
        cloud.report(f"  the build's log cannot be read: {error.message}")
    else:
        for line in reversed(newest_first.splitlines()):
            cloud.report(f"  | {line}")
    return shlex.join([*command, "--order=asc"])


def _location(settings: Settings) -> list[str]:
    return [f"--project={settings.project}", f"--region={settings.region}"]
