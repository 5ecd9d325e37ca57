"""Cloud Build: the steps of a build, run in order by the local Docker engine."""

import contextlib
import io
import logging
import re
import tarfile
import tempfile
import threading
import time
import uuid
from functools import partial
from pathlib import Path

from google.cloud.devtools import cloudbuild_v1 as cb
from google.longrunning import operations_pb2

from contract.docker import Container, DockerError
from emulator import artifacts, containers, operations
from emulator.errors import ApiError, failed_precondition, invalid_argument
from emulator.jobs import raise_if_cancelled
from emulator.resources import list_response
from emulator.state import FailedStep, State, canonical_name, now, project_number

Build, Status = cb.Build, cb.Build.Status
VARIABLE = re.compile(r"\$(?:\$|([A-Z_][A-Z0-9_]*)\b|\{([A-Z_][A-Z0-9_]*)\})")
TRIGGER_SUBSTITUTIONS = (
    "REPO_NAME REPO_FULL_NAME BRANCH_NAME TAG_NAME REF_NAME TRIGGER_NAME COMMIT_SHA REVISION_ID SHORT_SHA "
    "SERVICE_ACCOUNT_EMAIL SERVICE_ACCOUNT"
)
"""Built-in substitutions that are empty in a build without a trigger."""
INVALID = "invalid value for 'build.substitutions'"
SOCKET = "/var/run/docker.sock"
POLL_S = 0.2
log = logging.getLogger("emulator")


def create(state: State, request: cb.CreateBuildRequest) -> operations_pb2.Operation:
    """Start a build; raise ApiError if its steps do not match its substitutions."""
    build = cb.Build(request.build)
    for name, value in state.config.substitutions.items():
        if name in build.substitutions:
            build.substitutions[name] = value
    parent = request.parent or f"projects/{request.project_id}/locations/global"
    build.project_id, build.id = parent.split("/")[1], str(uuid.uuid4())
    location = f"projects/{project_number(build.project_id)}/locations/{parent.rsplit('/', 1)[-1]}"
    build.name = f"{location}/builds/{build.id}"
    build.create_time, build.status = now(), Status.QUEUED
    build.log_url = (
        f"https://console.cloud.google.com/cloud-build/builds/{build.id}?project={build.project_id}"
    )
    if not build.steps:
        raise invalid_argument("build.steps: at least one step is required")
    expanded = expand_substitutions(build)
    state.builds[build.name] = build
    metadata = cb.BuildOperationMetadata(build=build)
    work = partial(_run, state, build, expanded)
    return operations.start(state, canonical_name(parent), "CreateBuild", work, metadata)


def get(state: State, request: cb.GetBuildRequest) -> cb.Build:
    """Return a build."""
    build_id = (request.name or request.id).rsplit("/", 1)[-1]
    for name, build in state.builds.items():
        if name.endswith(f"/{build_id}"):
            return build
    raise ApiError("NOT_FOUND", f"Build not found: {build_id}")


def cancel(state: State, request: cb.CancelBuildRequest) -> cb.Build:
    """Request that a build ends: its current step is killed."""
    build = get(state, cb.GetBuildRequest(name=request.name, id=request.id))
    if build.status not in (Status.QUEUED, Status.WORKING):
        raise failed_precondition("Cannot cancel a build that has ended.")
    for operation in list(state.operations.values()):
        metadata = operation.metadata
        if isinstance(metadata, cb.BuildOperationMetadata) and metadata.build.id == build.id:
            operation.cancelled.set()
    return build


def list_builds(state: State, request: cb.ListBuildsRequest) -> cb.ListBuildsResponse:
    """Return the builds of a project, newest first."""
    # gcloud sends status="WORKING" OR status="QUEUED"; resources.paginate supports no OR.
    statuses = set(re.findall(r'status="([A-Z_]+)"', request.filter))
    parent = canonical_name(request.parent or f"projects/{request.project_id}/locations/global")
    builds = [
        build
        for build in reversed(list(state.builds.values()))
        if canonical_name(build.name).startswith(f"{parent}/")
        and (not statuses or build.status.name in statuses)
    ]
    pages = cb.ListBuildsRequest(page_size=request.page_size, page_token=request.page_token)
    return list_response(cb.ListBuildsResponse, builds, pages)


def expand_substitutions(build: cb.Build) -> cb.Build:
    """Return a copy of a build with its substitutions replaced; raise Cloud Build's ApiError."""
    own = dict(build.substitutions)
    builtin = {
        "PROJECT_ID": build.project_id,
        "PROJECT_NUMBER": project_number(build.project_id),
        "BUILD_ID": build.id,
        "LOCATION": build.name.split("/")[3],
    }
    builtin |= dict.fromkeys(TRIGGER_SUBSTITUTIONS.split(), "")
    used: set[str] = set()
    loose = build.options.substitution_option == cb.BuildOptions.SubstitutionOption.ALLOW_LOOSE

    def expand(text: str, values: dict[str, str]) -> str:
        def replace(match: re.Match[str]) -> str:
            name = match[1] or match[2]
            if name is None:
                return "$"
            used.add(name)
            if name not in values and not loose:
                expected = (
                    "matched in the substitution data"
                    if name[0] == "_"
                    else "a valid built-in substitution"
                )
                raise invalid_argument(f'{INVALID}: key in the template "{name}" is not {expected}')
            return values.get(name, "")

        return VARIABLE.sub(replace, text)

    if build.options.dynamic_substitutions:
        for _ in own:  # a value may name another one, which may name a third
            own = {name: expand(value, builtin | own) for name, value in own.items()}
    values = builtin | own
    expanded = cb.Build(build)
    for step in expanded.steps:
        # Cloud Build does not replace substitutions in scripts.
        for field in ("name", "entrypoint", "dir_"):
            setattr(step, field, expand(getattr(step, field), values))
        step.args = [expand(text, values) for text in step.args]
        step.env = [expand(text, values) for text in step.env]
    expanded.images = [expand(text, values) for text in build.images]
    expanded.tags = [expand(text, values) for text in build.tags]
    expanded.options.env = [expand(text, values) for text in build.options.env]
    expanded.service_account = expand(build.service_account, values)
    expanded.logs_bucket = expand(build.logs_bucket, values)
    if (unused := set(own) - used) and not loose:
        key = f'key "{sorted(unused)[0]}" in the substitution data'
        raise invalid_argument(f"{INVALID}: {key} is not matched in the template")
    expanded.substitutions = own
    return expanded


def _run(
    state: State, build: cb.Build, expanded: cb.Build, operation: operations.Operation
) -> cb.Build:
    build.status, build.start_time = Status.WORKING, now()
    timeout_s = expanded.timeout.total_seconds() if "timeout" in expanded else 3600
    deadline = time.monotonic() + timeout_s
    build.status_detail = ""
    try:
        with tempfile.TemporaryDirectory(prefix="build-", ignore_cleanup_errors=True) as folder:
            workspace = Path(folder, "workspace")
            workspace.mkdir()
            _unpack_source(state, expanded, workspace)
            raise_if_cancelled(operation.cancelled)
            for index, step in enumerate(expanded.steps):
                build.steps[index].status = Status.WORKING
                left_s = max(deadline - time.monotonic(), 0.1)
                succeeded = _run_step(state, step, expanded, workspace, left_s, operation.cancelled)
                raise_if_cancelled(operation.cancelled)
                build.steps[index].status = Status.SUCCESS if succeeded else Status.FAILURE
                if not succeeded:
                    timed_out = time.monotonic() > deadline
                    build.status = Status.TIMEOUT if timed_out else Status.FAILURE
                    build.status_detail = f'build step {index} "{step.name}" failed'
                    break
            else:
                build.results.images = [_push(state, image) for image in expanded.images]
                build.status = Status.SUCCESS
    except (ApiError, DockerError) as error:
        build.status_detail = str(error)
        build.status = Status.CANCELLED if operation.cancelled.is_set() else Status.FAILURE
    finally:
        if build.status == Status.WORKING:
            build.status = Status.INTERNAL_ERROR
        build.finish_time = now()
    if build.status != Status.SUCCESS:
        raise ApiError("ABORTED", f"Build failed: {build.status_detail}")
    return build


def _unpack_source(state: State, build: cb.Build, workspace: Path) -> None:
    source = build.source.storage_source
    if source.bucket:
        uri = f"gs://{source.bucket}/{source.object_}"
        (content,) = artifacts.read_objects(state.config, [uri])
        with tarfile.open(fileobj=io.BytesIO(content)) as archive:
            archive.extractall(workspace, filter="data")


def _run_step(  # noqa: PLR0913, PLR0917  each describes the step
    state: State,
    step: cb.BuildStep,
    build: cb.Build,
    workspace: Path,
    timeout_s: float,
    cancelled: threading.Event,
) -> bool:
    """Run one step in its container, log its output, and return whether it succeeded."""
    name, command = step.id or step.name, list(step.args)
    options = [
        "--network=host",
        f"--label={containers.LABEL}",
        f"--volume={workspace}:/workspace",
        f"--volume={SOCKET}:{SOCKET}",
        f"--workdir={Path('/workspace') / step.dir_}",
        *(f"--env={variable}" for variable in (*build.options.env, *step.env, *state.step_env)),
    ]
    if step.script:
        script = workspace.with_name(f"{workspace.name}.script")
        interpreter = "" if step.script.startswith("#!") else "#!/bin/sh\nset -e\n"
        script.write_text(interpreter + step.script)
        script.chmod(0o755)
        options += [f"--volume={script}:/builder/script:ro", "--entrypoint=/builder/script"]
    elif step.entrypoint:
        options.append(f"--entrypoint={step.entrypoint}")
    log.info("build step %s: %s %s", name, step.entrypoint, " ".join(command)[:200])
    if "timeout" in step:
        timeout_s = min(timeout_s, step.timeout.total_seconds())
    image = containers.local_image(state.config, step.name)
    succeeded, output = _run_container(state, image, options, command, timeout_s, cancelled)
    for line in output.splitlines():
        log.info("  | %s", line)
        state.build_logs.setdefault(build.id, []).append(f"{name}: {line}")
    if not succeeded:
        state.failed_steps.append(FailedStep(name, output))
    return succeeded


def _run_container(  # noqa: PLR0913, PLR0917  each describes the step
    state: State,
    image: str,
    options: list[str],
    command: list[str],
    timeout_s: float,
    cancelled: threading.Event,
) -> tuple[bool, str]:
    """Run a container to its end; return whether it succeeded, and its output or Docker's error."""
    docker = state.config.engine
    try:
        container = docker.start(image, *options, command=command)
    except DockerError as error:
        return False, str(error)
    ended = threading.Event()
    watch = partial(_kill_if_cancelled, container, cancelled, ended)
    threading.Thread(target=watch, daemon=True).start()
    try:
        exit_code = docker("wait", container.name, timeout_s=timeout_s)
        return exit_code == "0", container.logs()
    except DockerError as error:
        return False, f"{container.logs()}\n{error}"
    finally:
        ended.set()
        container.remove()


def _kill_if_cancelled(
    container: Container, cancelled: threading.Event, ended: threading.Event
) -> None:
    while not ended.wait(POLL_S):
        if cancelled.is_set():
            with contextlib.suppress(DockerError):  # it has just ended
                container.docker("kill", container.name)
            return


def _push(state: State, image: str) -> cb.BuiltImage:
    docker = state.config.engine
    docker("push", "--quiet", image, timeout_s=600)
    digests = docker("image", "inspect", "--format", '{{join .RepoDigests " "}}', image)
    return cb.BuiltImage(name=image, digest=digests.split()[0].partition("@")[2])


def get_service_account(
    _: State, request: cb.GetDefaultServiceAccountRequest
) -> cb.DefaultServiceAccount:
    """Return the service account that builds use by default."""
    project = project_number(request.name.split("/")[1])
    email = f"{project}-compute@developer.gserviceaccount.com"
    return cb.DefaultServiceAccount(name=request.name, service_account_email=email)


METHODS = {
    "GetDefaultServiceAccount": get_service_account,
    "CreateBuild": create,
    "CancelBuild": cancel,
    "GetBuild": get,
    "ListBuilds": list_builds,
}
