"""Cloud Build: runs the steps of a build, in order, in containers of the local Docker engine."""

import contextlib
import io
import logging
import tarfile
import tempfile
import time
from pathlib import Path

from google.cloud.devtools import cloudbuild_v1 as cb

from contract.docker import DockerError
from emulator import artifacts, containers, images
from emulator.errors import ApiError
from emulator.state import FailedStep, State, now

LABEL = "emulator-build"
"""Label of the containers of a build's steps, with the build's ID."""
SOCKET = "/var/run/docker.sock"
Status = cb.Build.Status
log = logging.getLogger("emulator")


def run(state: State, build: cb.Build, expanded: cb.Build) -> cb.Build:
    """Run the steps of a build, push its images, and return it; raise ApiError if it fails.

    `expanded` is the build with its substitutions replaced. The caller may cancel the build: it sets the status
    and removes the step's container.
    """
    set_status(state, build, Status.QUEUED, Status.WORKING)
    build.start_time = now()
    before = images.image_names(state.config.engine)
    try:
        if _run_steps(state, build, expanded):
            build.results.images = [_push(state, image) for image in expanded.images]
            set_status(state, build, Status.WORKING, Status.SUCCESS)
    except (ApiError, DockerError) as error:
        build.status_detail = str(error)
        set_status(state, build, Status.WORKING, Status.FAILURE)
    finally:
        set_status(state, build, Status.WORKING, Status.INTERNAL_ERROR)
        build.finish_time = now()
        new, text = images.image_names(state.config.engine) - before, str(expanded)
        built = [name for name in new if name.rpartition(":")[0] in text]
        state.built_images += built
        if (
            build.status == Status.CANCELLED
        ):  # its steps could not remove the containers that they started
            images.remove_with_images(state.config.engine, built)
    if build.status == Status.CANCELLED:
        raise ApiError("CANCELLED", "Build cancelled")
    if build.status != Status.SUCCESS:
        raise ApiError("ABORTED", f"Build failed: {build.status_detail}")
    return build


def set_status(state: State, build: cb.Build, old: Status, new: Status) -> bool:
    """Change the status of a build if it is `old`; return whether it was."""
    with state.lock:
        is_old = bool(build.status == old)
        if is_old:
            build.status = new
        return is_old


def _run_steps(state: State, build: cb.Build, expanded: cb.Build) -> bool:
    """Run the steps of a build in a workspace of its own; return whether all of them succeeded."""
    timeout_s = expanded.timeout.total_seconds() if "timeout" in expanded else 3600
    deadline = time.monotonic() + timeout_s
    with tempfile.TemporaryDirectory(prefix="build-", ignore_cleanup_errors=True) as folder:
        workspace = Path(folder, "workspace")
        workspace.mkdir()
        _unpack_source(state, expanded, workspace)
        for index, step in enumerate(expanded.steps):
            if build.status == Status.CANCELLED:
                return False
            build.steps[index].status = Status.WORKING
            left_s = max(deadline - time.monotonic(), 0.1)
            succeeded = run_step(state, step, expanded, workspace, left_s)
            if succeeded:
                build.steps[index].status = Status.SUCCESS
                continue
            build.status_detail = f'build step {index} "{step.name}" failed'
            timed_out = time.monotonic() > deadline
            end = Status.TIMEOUT if timed_out else Status.FAILURE
            is_failure = set_status(state, build, Status.WORKING, end)
            build.steps[index].status = Status.FAILURE if is_failure else Status.CANCELLED
            return False
    return True


def _unpack_source(state: State, build: cb.Build, workspace: Path) -> None:
    source = build.source.storage_source
    if source.bucket:
        uri = f"gs://{source.bucket}/{source.object_}"
        (content,) = artifacts.read_objects(state.config, [uri])
        with tarfile.open(fileobj=io.BytesIO(content)) as archive:
            archive.extractall(workspace, filter="data")


def run_step(
    state: State, step: cb.BuildStep, build: cb.Build, workspace: Path, timeout_s: float
) -> bool:
    """Run one step in its container, log its output, and return whether it succeeded."""
    name, command = step.id or step.name, list(step.args)
    options = [
        "--network=host",
        f"--label={containers.LABEL}",
        f"--label={LABEL}={build.id}",
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
    image = images.local_image(state.config, step.name)
    succeeded, output = _run_container(state, image, options, command, timeout_s)
    for line in output.splitlines():
        log.info("  | %s", line)
        state.build_logs.setdefault(build.id, []).append(f"{name}: {line}")
    if not succeeded:
        state.failed_steps.append(FailedStep(name, output))
    return succeeded


def _run_container(
    state: State, image: str, options: list[str], command: list[str], timeout_s: float
) -> tuple[bool, str]:
    """Run a container to its end; return whether it succeeded, and its output or Docker's error."""
    docker = state.config.engine
    try:
        container = docker.start(image, *options, command=command)
    except DockerError as error:
        return False, str(error)
    try:
        exit_code = docker("wait", container.name, timeout_s=timeout_s)
        return exit_code == "0", container.logs()
    except DockerError as error:
        with contextlib.suppress(DockerError):  # it was removed
            return False, f"{container.logs()}\n{error}"
        return False, str(error)
    finally:
        with contextlib.suppress(DockerError):
            container.remove()


def _push(state: State, image: str) -> cb.BuiltImage:
    docker = state.config.engine
    docker("push", "--quiet", image, timeout_s=600)
    digests = docker("image", "inspect", "--format", '{{join .RepoDigests " "}}', image)
    return cb.BuiltImage(name=image, digest=digests.split()[0].partition("@")[2])
