"""Cloud Build: the steps of a build, run in order by the local Docker engine."""

import re
import uuid

from google.cloud.devtools import cloudbuild_v1 as cb
from google.longrunning import operations_pb2

from emulator import build_steps, images, operations
from emulator.errors import ApiError, failed_precondition, invalid_argument
from emulator.resources import list_response
from emulator.state import State, canonical_name, now, project_number

Status, Logging = cb.Build.Status, cb.BuildOptions.LoggingMode
VARIABLE = re.compile(r"\$(?:\$|([A-Z_][A-Z0-9_]*)\b|\{([A-Z_][A-Z0-9_]*)\})")
TRIGGER_SUBSTITUTIONS = (
    "REPO_NAME REPO_FULL_NAME BRANCH_NAME TAG_NAME REF_NAME TRIGGER_NAME COMMIT_SHA REVISION_ID SHORT_SHA "
    "SERVICE_ACCOUNT_EMAIL SERVICE_ACCOUNT"
)
"""Built-in substitutions that are empty in a build without a trigger."""
INVALID = "invalid value for 'build.substitutions'"
LOGS = "/emulator/builds/"
"""Path of the emulator with the logs of builds."""


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
    build.log_url = f"{state.url}{LOGS}{build.id}"
    logging_mode = build.options.logging
    if not build.logs_bucket and logging_mode not in (Logging.CLOUD_LOGGING_ONLY, Logging.NONE):
        number = project_number(build.project_id)
        build.logs_bucket = f"gs://{number}.cloudbuild-logs.googleusercontent.com"
    if not build.steps:
        raise invalid_argument("build.steps: at least one step is required")
    expanded = expand_substitutions(build)
    state.builds[build.name] = build
    metadata = cb.BuildOperationMetadata(build=build)

    def work(_: operations.Operation) -> cb.Build:
        return build_steps.run(state, build, expanded)

    return operations.start(state, canonical_name(parent), "CreateBuild", work, metadata)


def get(state: State, request: cb.GetBuildRequest) -> cb.Build:
    """Return a build."""
    name = request.name or f"projects/{request.project_id}/locations/global/builds/{request.id}"
    build_id = name.rsplit("/", 1)[-1]
    for other, build in state.builds.items():
        if canonical_name(other) == canonical_name(name):
            return build
    raise ApiError("NOT_FOUND", f"Build not found: {build_id}")


def cancel(state: State, request: cb.CancelBuildRequest) -> cb.Build:
    """Cancel a build that is under way: stop its step, and return the build."""
    fields = {"name": request.name, "project_id": request.project_id, "id": request.id}
    build = get(state, cb.GetBuildRequest(fields))
    states = Status.QUEUED, Status.WORKING
    if not any(build_steps.set_status(state, build, old, Status.CANCELLED) for old in states):
        raise failed_precondition("cannot cancel a build that has finished")
    images.remove(state.config.engine, f"label={build_steps.LABEL}={build.id}")
    return cb.Build(build)


def read_log(state: State, build_id: str) -> str:
    """Return a build's log; raise ApiError if the build does not exist."""
    if not any(name.endswith(f"/{build_id}") for name in state.builds):
        raise ApiError("NOT_FOUND", f"Build not found: {build_id}")
    return "".join(f"{line}\n" for line in state.build_logs.get(build_id, []))


def list_builds(state: State, request: cb.ListBuildsRequest) -> cb.ListBuildsResponse:
    """Return the builds of a project, newest first."""
    # gcloud sends status="WORKING" OR status="QUEUED".
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
    "GetBuild": get,
    "CancelBuild": cancel,
    "ListBuilds": list_builds,
}
