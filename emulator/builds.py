"""Cloud Build: a build's steps, run in order with this machine's own engine."""

import io
import logging
import re
import tarfile
import tempfile
import time
import uuid
from functools import partial
from pathlib import Path

from google.cloud.devtools import cloudbuild_v1 as cb
from google.longrunning import operations_pb2

from contract.docker import Container, DockerError
from emulator import artifacts, containers, operations
from emulator.errors import ApiError, invalid_argument
from emulator.resources import listed
from emulator.state import State, canonical_name, now, project_number

Build, Status = cb.Build, cb.Build.Status
VARIABLE = re.compile(r"\$(?:\$|([A-Z_][A-Z0-9_]*)\b|\{([A-Z_][A-Z0-9_]*)\})")
OF_TRIGGERS = (
    "REPO_NAME REPO_FULL_NAME BRANCH_NAME TAG_NAME REF_NAME TRIGGER_NAME COMMIT_SHA REVISION_ID SHORT_SHA "
    "SERVICE_ACCOUNT_EMAIL SERVICE_ACCOUNT"
)
"""Built-in substitutions that are empty in a build that no trigger began."""
INVALID = "invalid value for 'build.substitutions'"
SOCKET = "/var/run/docker.sock"
log = logging.getLogger("rehearsal")


def create(state: State, request: cb.CreateBuildRequest) -> operations_pb2.Operation:
    """Begin a build; raise Refused where its substitutions do not match its steps."""
    build = cb.Build(request.build)
    for name, value in state.config.substitutions.items():
        if name in build.substitutions:
            build.substitutions[name] = value
    where = request.parent or f"projects/{request.project_id}/locations/global"
    build.project_id = where.split("/")[1]
    build.id = str(uuid.uuid4())
    build.name = f"projects/{project_number(build.project_id)}/locations/{where.rsplit('/', 1)[-1]}/builds/{build.id}"
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
    return operations.start(state, canonical_name(where), "CreateBuild", work, metadata)


def get(state: State, request: cb.GetBuildRequest) -> cb.Build:
    """Return a build."""
    wanted = (request.name or request.id).rsplit("/", 1)[-1]
    for name, build in state.builds.items():
        if name.endswith(f"/{wanted}"):
            return build
    raise ApiError("NOT_FOUND", f"Build not found: {wanted}")


def list_(state: State, request: cb.ListBuildsRequest) -> cb.ListBuildsResponse:
    """Return a project's builds, the newest first."""
    # gcloud asks for status="WORKING" OR status="QUEUED"; page reads no OR.
    wanted = set(re.findall(r'status="([A-Z_]+)"', request.filter))
    parent = canonical_name(request.parent or f"projects/{request.project_id}/locations/global")
    builds = [
        each
        for each in reversed(list(state.builds.values()))
        if canonical_name(each.name).startswith(f"{parent}/")
        and (not wanted or each.status.name in wanted)
    ]
    pages = cb.ListBuildsRequest(page_size=request.page_size, page_token=request.page_token)
    return listed(cb.ListBuildsResponse, builds, pages)


def expand_substitutions(build: cb.Build) -> cb.Build:
    """Return a build with its substitutions put in; raise Refused as Cloud Build does."""
    given = dict(build.substitutions)
    known = {
        "PROJECT_ID": build.project_id,
        "PROJECT_NUMBER": project_number(build.project_id),
        "BUILD_ID": build.id,
        "LOCATION": build.name.split("/")[3],
    }
    known |= dict.fromkeys(OF_TRIGGERS.split(), "")
    used: set[str] = set()
    loose = build.options.substitution_option == cb.BuildOptions.SubstitutionOption.ALLOW_LOOSE

    def put(text: str, values: dict[str, str]) -> str:
        def one(match: re.Match[str]) -> str:
            name = match[1] or match[2]
            if name is None:
                return "$"
            used.add(name)
            if name not in values and not loose:
                kind = (
                    "matched in the substitution data"
                    if name[0] == "_"
                    else "a valid built-in substitution"
                )
                raise invalid_argument(f'{INVALID}: key in the template "{name}" is not {kind}')
            return values.get(name, "")

        return VARIABLE.sub(one, text)

    if build.options.dynamic_substitutions:
        for _ in given:  # a value may name another, and that one a third
            given = {key: put(value, known | given) for key, value in given.items()}
    values = known | given
    done = cb.Build(build)
    for step in done.steps:
        # Cloud Build does not look into scripts.
        step.name, step.entrypoint, step.dir_ = (
            put(text, values) for text in (step.name, step.entrypoint, step.dir_)
        )
        step.args = [put(text, values) for text in step.args]
        step.env = [put(text, values) for text in step.env]
    done.images = [put(text, values) for text in build.images]
    done.tags = [put(text, values) for text in build.tags]
    done.options.env = [put(text, values) for text in build.options.env]
    done.service_account = put(build.service_account, values)
    done.logs_bucket = put(build.logs_bucket, values)
    if (unused := set(given) - used) and not loose:
        where = f'key "{sorted(unused)[0]}" in the substitution data'
        raise invalid_argument(f"{INVALID}: {where} is not matched in the template")
    done.substitutions = given
    return done


def _run(state: State, build: cb.Build, expanded: cb.Build, _: operations.Operation) -> cb.Build:
    build.status, build.start_time = Status.WORKING, now()
    until = time.monotonic() + (expanded.timeout.total_seconds() if "timeout" in expanded else 3600)
    build.status_detail = ""
    try:
        with tempfile.TemporaryDirectory(prefix="build-", ignore_cleanup_errors=True) as folder:
            workspace = Path(folder, "workspace")
            workspace.mkdir()
            _unpack(state, expanded, workspace)
            for index, step in enumerate(expanded.steps):
                build.steps[index].status = Status.WORKING
                ok = _run_step(state, step, expanded, workspace, max(until - time.monotonic(), 0.1))
                build.steps[index].status = Status.SUCCESS if ok else Status.FAILURE
                if not ok:
                    late = time.monotonic() > until
                    build.status = Status.TIMEOUT if late else Status.FAILURE
                    build.status_detail = f'build step {index} "{step.name}" failed'
                    break
            else:
                build.results.images = [_push(state, image) for image in expanded.images]
                build.status = Status.SUCCESS
    except (ApiError, DockerError) as error:
        build.status, build.status_detail = Status.FAILURE, str(error)
    finally:
        if build.status == Status.WORKING:
            build.status = Status.INTERNAL_ERROR
        build.finish_time = now()
    if build.status != Status.SUCCESS:
        raise ApiError("ABORTED", f"Build failed: {build.status_detail}")
    return build


def _unpack(state: State, build: cb.Build, workspace: Path) -> None:
    source = build.source.storage_source
    if source.bucket:
        content = artifacts.read_objects(state.config, [f"gs://{source.bucket}/{source.object_}"])[
            0
        ]
        with tarfile.open(fileobj=io.BytesIO(content)) as archive:
            archive.extractall(workspace, filter="data")


def _run_step(
    state: State, step: cb.BuildStep, build: cb.Build, workspace: Path, left_s: float
) -> bool:
    """Run one step as its container; return whether it succeeded."""
    title, command = step.id or step.name, list(step.args)
    image = containers.local_image(state.config, step.name)
    options = [
        "--network=host",
        f"--label={containers.LABEL}",
        f"--volume={workspace}:/workspace",
        f"--volume={SOCKET}:{SOCKET}",
        f"--workdir={Path('/workspace') / step.dir_}",
        *(f"--env={each}" for each in (*build.options.env, *step.env, *state.step_env)),
    ]
    if step.script:
        script = workspace.with_name(f"{workspace.name}.script")
        interpreter = "" if step.script.startswith("#!") else "#!/bin/sh\nset -e\n"
        script.write_text(interpreter + step.script)
        script.chmod(0o755)
        options += [f"--volume={script}:/builder/script:ro", "--entrypoint=/builder/script"]
    elif step.entrypoint:
        options.append(f"--entrypoint={step.entrypoint}")
    log.info("build step %s: %s %s", title, step.entrypoint, " ".join(command)[:200])
    container: Container | None = None
    try:
        limit_s = min(left_s, step.timeout.total_seconds() if "timeout" in step else left_s)
        container = state.config.engine.start(image, *options, command=command)
        code = state.config.engine("wait", container.name, timeout_s=limit_s)
        for line in container.logs().splitlines():
            log.info("  | %s", line)
    except DockerError as error:
        log.info("build step %s: %s", title, error)
        return False
    finally:
        if container:
            container.remove()
    return code == "0"


def _push(state: State, image: str) -> cb.BuiltImage:
    docker = state.config.engine
    docker("push", "--quiet", image, timeout_s=600)
    digests = docker("image", "inspect", "--format", '{{join .RepoDigests " "}}', image)
    return cb.BuiltImage(name=image, digest=digests.split()[0].partition("@")[2])


def service_account(
    _: State, request: cb.GetDefaultServiceAccountRequest
) -> cb.DefaultServiceAccount:
    """Return what builds run as."""
    project = project_number(request.name.split("/")[1])
    return cb.DefaultServiceAccount(
        name=request.name, service_account_email=f"{project}-compute@developer.gserviceaccount.com"
    )


METHODS = {
    "GetDefaultServiceAccount": service_account,
    "CreateBuild": create,
    "GetBuild": get,
    "ListBuilds": list_,
}
