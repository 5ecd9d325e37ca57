"""Cloud Build: a build's steps, run in order with this machine's own engine."""

import contextlib
import io
import logging
import re
import shutil
import subprocess
import tarfile
import tempfile
import threading
import time
import uuid
from collections.abc import Iterator
from pathlib import Path

from google.cloud.devtools import cloudbuild_v1 as cb
from google.longrunning import operations_pb2

from rehearsal import artifacts, containers, operations
from rehearsal.errors import Refused
from rehearsal.world import World, canonical, now, number, page

Build, Status = cb.Build, cb.Build.Status
VARIABLE = re.compile(r"\$(?:\$|([A-Z_][A-Z0-9_]*)\b|\{([A-Z_][A-Z0-9_]*)\})")
INVALID = "invalid value for 'build.substitutions'"
SOCKET = "/var/run/docker.sock"
_cancelled: dict[str, threading.Event] = {}
log = logging.getLogger("rehearsal")


def create(world: World, request: cb.CreateBuildRequest) -> operations_pb2.Operation:
    """Begin a build; raise Refused where its substitutions do not match its steps."""
    build = cb.Build(request.build)
    where = request.parent or f"projects/{request.project_id}/locations/global"
    build.project_id = where.split("/")[1]
    build.id = str(uuid.uuid4())
    build.name = f"projects/{number(build.project_id)}/locations/{where.rsplit('/', 1)[-1]}/builds/{build.id}"
    build.create_time, build.status = now(), Status.QUEUED
    build.log_url = (
        f"https://console.cloud.google.com/cloud-build/builds/{build.id}?project={build.project_id}"
    )
    if not build.steps:
        raise Refused("INVALID_ARGUMENT", "build.steps: at least one step is required")
    if build.service_account and not build.options.logging and not build.logs_bucket:
        message = (
            "if 'build.service_account' is specified, the build must either (a) specify 'build.logs_bucket', "
            "(b) use the REGIONAL_USER_OWNED_BUCKET build.options.default_logs_bucket_behavior option, or "
            "(c) use either CLOUD_LOGGING_ONLY / NONE logging options"
        )
        raise Refused("INVALID_ARGUMENT", message)
    expanded = expand(build)
    world.builds[build.name] = build
    _cancelled[build.name] = threading.Event()
    metadata = cb.BuildOperationMetadata(build=build)
    return operations.start(
        world, canonical(where), metadata, "CreateBuild", lambda _: _run(world, build, expanded)
    )


def get(world: World, request: cb.GetBuildRequest) -> cb.Build:
    """Return a build."""
    wanted = (request.name or request.id).rsplit("/", 1)[-1]
    for name, build in world.builds.items():
        if name.endswith(f"/{wanted}"):
            return build
    raise Refused("NOT_FOUND", f"Build not found: {wanted}")


def list_(world: World, request: cb.ListBuildsRequest) -> cb.ListBuildsResponse:
    """Return a project's builds, the newest first."""
    # gcloud asks for status="WORKING" OR status="QUEUED"; page reads no OR.
    wanted = set(re.findall(r'status="([A-Z_]+)"', request.filter))
    parent = canonical(request.parent or f"projects/{request.project_id}/locations/global")
    builds = [
        each
        for each in reversed(list(world.builds.values()))
        if canonical(each.name).startswith(f"{parent}/")
        and (not wanted or each.status.name in wanted)
    ]
    found, token = page(
        builds, cb.ListBuildsRequest(page_size=request.page_size, page_token=request.page_token)
    )
    return cb.ListBuildsResponse(builds=found, next_page_token=token)


def cancel(world: World, request: cb.CancelBuildRequest) -> cb.Build:
    """Ask a build to end after its step."""
    build = get(world, cb.GetBuildRequest(name=request.name, id=request.id))
    _cancelled[build.name].set()
    return build


def expand(build: cb.Build) -> cb.Build:
    """Return a build with its substitutions put in; raise Refused as Cloud Build does."""
    given = dict(build.substitutions)
    known = {
        "PROJECT_ID": build.project_id,
        "PROJECT_NUMBER": number(build.project_id),
        "BUILD_ID": build.id,
        "LOCATION": build.name.split("/")[3],
    }
    known |= dict.fromkeys(
        (
            "REPO_NAME",
            "REPO_FULL_NAME",
            "BRANCH_NAME",
            "TAG_NAME",
            "REF_NAME",
            "TRIGGER_NAME",
            "COMMIT_SHA",
            "REVISION_ID",
            "SHORT_SHA",
            "SERVICE_ACCOUNT_EMAIL",
            "SERVICE_ACCOUNT",
        ),
        "",
    )
    used: set[str] = set()
    loose = build.options.substitution_option == cb.BuildOptions.SubstitutionOption.ALLOW_LOOSE

    def put(text: str, values: dict[str, str]) -> str:
        def one(match: re.Match[str]) -> str:
            name = match[1] or match[2]
            if name is None:
                return "$"
            used.add(name)
            if name not in values and not loose:
                message = (
                    f'{INVALID}: key in the template "{name}" is not a valid built-in substitution'
                )
                if name.startswith("_"):
                    message = f'{INVALID}: key in the template "{name}" is not matched in the substitution data'
                raise Refused("INVALID_ARGUMENT", message)
            return values.get(name, "")

        return VARIABLE.sub(one, text)

    if build.options.dynamic_substitutions:
        for _ in given:  # a value may name another, and that one a third
            given = {key: put(value, known | given) for key, value in given.items()}
    values = known | given
    done = cb.Build(build)
    for step in done.steps:
        # Cloud Build does not look into scripts: they see substitutions as environment variables, if asked.
        step.name, step.entrypoint, step.dir_ = (
            put(text, values) for text in (step.name, step.entrypoint, step.dir_)
        )
        step.args = [put(text, values) for text in step.args]
        step.env = [put(text, values) for text in step.env]
        if build.options.automap_substitutions or step.automap_substitutions:
            used |= set(given)
            step.env = [*(f"{key}={value}" for key, value in values.items()), *step.env]
    done.images = [put(text, values) for text in build.images]
    done.tags = [put(text, values) for text in build.tags]
    done.options.env = [put(text, values) for text in build.options.env]
    done.service_account = put(build.service_account, values)
    done.logs_bucket = put(build.logs_bucket, values)
    if (unused := set(given) - used) and not loose:
        message = (
            f'key "{sorted(unused)[0]}" in the substitution data is not matched in the template'
        )
        raise Refused("INVALID_ARGUMENT", f"invalid value for 'build.substitutions': {message}")
    done.substitutions = given
    return done


def _run(world: World, build: cb.Build, expanded: cb.Build) -> cb.Build:
    build.status, build.start_time = Status.WORKING, now()
    until = time.monotonic() + (expanded.timeout.total_seconds() if "timeout" in expanded else 3600)
    build.status_detail = ""
    try:
        with _workspace(world, expanded) as workspace:
            for index, step in enumerate(expanded.steps):
                if _cancelled[build.name].is_set():
                    build.status = Status.CANCELLED
                    break
                build.steps[index].status = Status.WORKING
                ok = _step(world, step, expanded, workspace, max(until - time.monotonic(), 0.1))
                build.steps[index].status = Status.SUCCESS if ok else Status.FAILURE
                if not ok and not step.allow_failure:
                    late = time.monotonic() > until
                    build.status = Status.TIMEOUT if late else Status.FAILURE
                    build.status_detail = f'build step {index} "{step.name}" failed'
                    break
            else:
                build.results.images = [_push(world, image) for image in expanded.images]
                build.status = Status.SUCCESS
    except Refused as error:
        build.status, build.status_detail = Status.FAILURE, error.message
    finally:
        if build.status == Status.WORKING:
            build.status = Status.INTERNAL_ERROR
        build.finish_time = now()
    if build.status != Status.SUCCESS:
        raise Refused("ABORTED", f"Build failed: {build.status_detail}")
    return build


@contextlib.contextmanager
def _workspace(world: World, build: cb.Build) -> Iterator[Path]:
    folder = Path(tempfile.mkdtemp(prefix="workspace-"))
    try:
        if source := build.source.storage_source.bucket:
            content = artifacts.read(
                world.rules, [f"gs://{source}/{build.source.storage_source.object_}"]
            )[0]
            with tarfile.open(fileobj=io.BytesIO(content)) as archive:
                archive.extractall(folder, filter="data")
        yield folder
    finally:
        shutil.rmtree(folder, ignore_errors=True)


def _step(
    world: World, step: cb.BuildStep, build: cb.Build, workspace: Path, left_s: float
) -> bool:
    """Run one step as its container; return whether it succeeded."""
    words = [
        world.rules.docker,
        "run",
        "--rm",
        "--network",
        "host",
        "--label",
        containers.LABEL,
        "--volume",
        f"{workspace}:/workspace",
        "--volume",
        f"{SOCKET}:{SOCKET}",
        "--workdir",
        str(Path("/workspace") / step.dir_),
    ]
    for variable in (*build.options.env, *step.env, *world.step_env):
        words += ["--env", variable]
    if step.script:
        script = workspace.with_name(f"{workspace.name}.script")
        script.write_text(
            step.script if step.script.startswith("#!") else f"#!/bin/sh\nset -e\n{step.script}"
        )
        script.chmod(0o755)
        words += [
            "--volume",
            f"{script}:/builder/script:ro",
            "--entrypoint",
            "/builder/script",
            step.name,
        ]
    else:
        words += [
            *(["--entrypoint", step.entrypoint] if step.entrypoint else []),
            step.name,
            *step.args,
        ]
    log.info(
        "build step %s: %s %s", step.id or step.name, step.entrypoint, " ".join(step.args)[:200]
    )
    limit = min(left_s, step.timeout.total_seconds() if "timeout" in step else left_s)
    try:
        done = subprocess.run(
            words,
            timeout=limit,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            check=False,
        )
    except subprocess.TimeoutExpired:
        log.info("build step %s took more than %.0f s", step.id or step.name, limit)
        return False
    for line in done.stdout.splitlines():
        log.info("  | %s", line)
    return done.returncode == 0


def _push(world: World, image: str) -> cb.BuiltImage:
    containers.docker(world.rules, "push", "--quiet", image, timeout_s=600)
    digests = containers.docker(
        world.rules, "image", "inspect", "--format", '{{join .RepoDigests " "}}', image
    )
    return cb.BuiltImage(name=image, digest=digests.split()[0].partition("@")[2])


def service_account(
    _: World, request: cb.GetDefaultServiceAccountRequest
) -> cb.DefaultServiceAccount:
    """Return what builds run as."""
    project = number(request.name.split("/")[1])
    return cb.DefaultServiceAccount(
        name=request.name, service_account_email=f"{project}-compute@developer.gserviceaccount.com"
    )


METHODS = {
    "GetDefaultServiceAccount": service_account,
    "CreateBuild": create,
    "GetBuild": get,
    "ListBuilds": list_,
    "CancelBuild": cancel,
}
