"""Serve a stock archive once in the image, and send it a request."""

import contextlib
import dataclasses
import json
import os
import re
import shutil
import signal
import subprocess
import tempfile
import textwrap
import threading
import time
from collections import deque
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from contract.docker import Container, Docker, DockerError
from project.model_folder import ModelFolderError, find_model
from serving.stock import request
from serving.stock.contents import Contents
from serving.stock.outcome import (
    LOAD_TIMEOUT_S,
    NETWORK_ERROR,
    ROOT,
    ROUTE,
    Outcome,
    TrialError,
    find_cause,
    find_content_type,
    name_in_storage,
)

TITLE = "vertex-torchserve"
"""The label of the images of this project."""
BUILD_TIMEOUT_S = 1800
MAX_STEP_CHARS = 100
LOG_DELAY_S = 0.5
"""The time until a traceback is in the container's log."""
PORT = 8080
MOUNT = "/mnt/model"
HEALTH = "/ping"
VARIABLES = ("TORCH_FORCE_NO_WEIGHTS_ONLY_LOAD", "SERVICE_ENVELOPE", "WRAP_INSTANCES")
"""The variables for a stock archive that are passed to a container."""


def run_in_image(
    contents: Contents,
    request_file: Path | None,
    docker: Docker,
    image: str | None,
    log: Callable[[str], None],
) -> Outcome:
    """Serve an archive in an image, which is built if it does not exist; raise TrialError."""
    image = image or _select_image(contents, docker) or _default_image()
    if not _has_image(docker, image):
        log(f"building the image {image}, which takes some minutes")
        started = time.monotonic()
        _build_image(docker, image, log)
        log(f"built in {time.monotonic() - started:.0f} s")
    log(f"trying it {describe_image(image)}, without a network")
    outcome = _try_in_image(contents.path, request_file, image, docker)
    exception, _ = find_cause(outcome, contents.names)
    if NETWORK_ERROR.search(f"{outcome.error} {exception}"):
        log("it needs a network: trying it again with one")
        return _try_in_image(contents.path, request_file, image, docker, "bridge")
    return outcome


def _select_image(contents: Contents, docker: Docker) -> str | None:
    """Return the image that `make build MODEL=archive` made if the archive has requirements, or the default one.

    None: there is neither.
    """
    own = own_image(contents.path) if contents.has_requirements else None
    for name in filter(None, (own, _default_image())):
        if _read_title(docker, name) == TITLE:
            return name
    return None


def own_image(archive: Path) -> str | None:
    """Return the image of `make build MODEL=archive`; None if the archive's name is not one of a model."""
    try:
        return f"{find_model(str(archive)).name}:latest"
    except ModelFolderError:
        return None


def is_in_own_image(archive: Path, outcome: Outcome) -> bool:
    """Whether the trial was in the image that `make build MODEL=archive` made."""
    own = own_image(archive)
    return own is not None and outcome.place == describe_image(own)


def describe_image(image: str) -> str:
    """Return the place of a trial in an image, for messages."""
    return f"in the image {image}"


def _default_image() -> str:
    """Return the image of the model that make builds without MODEL; raise TrialError."""
    try:
        return f"{find_model(None, ROOT).name}:latest"
    except ModelFolderError as error:
        raise TrialError(str(error)) from error


def _read_title(docker: Docker, image: str) -> str | None:
    template = '{{index .Config.Labels "org.opencontainers.image.title"}}'
    try:
        return docker("image", "inspect", "--format", template, image)
    except DockerError:
        return None


def _has_image(docker: Docker, image: str) -> bool:
    """Return whether the engine has an image."""
    return _read_title(docker, image) is not None


def _build_image(docker: Docker, image: str, log: Callable[[str], None]) -> None:
    """Run `make build` and log its steps; raise TrialError."""
    ours = ("MODEL", "MAKEFLAGS", "MFLAGS", "MAKELEVEL", "IMAGE")
    environ = {name: value for name, value in os.environ.items() if name not in ours}
    command = ["make", "build", f"IMAGE={image}", f"DOCKER={docker.program}"]
    last: deque[str] = deque(maxlen=3)
    steps: set[str] = set()
    try:
        process = subprocess.Popen(
            command,
            cwd=ROOT,
            env=environ | {"BUILDKIT_PROGRESS": "plain"},
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            errors="replace",
            start_new_session=True,
        )
    except OSError as error:
        raise TrialError(f"make build IMAGE={image}: {error}") from error
    assert process.stdout is not None
    timer = threading.Timer(BUILD_TIMEOUT_S, os.killpg, (process.pid, signal.SIGKILL))
    timer.start()
    try:
        for line in process.stdout:
            if line.strip():
                last.append(" ".join(line.split()))
            step = re.match(r"#\d+ (\[.+\] (?:RUN|COPY|FROM) .+)", line)
            if step and step[1] not in steps:  # BuildKit repeats those that run at once
                steps.add(step[1])
                log(textwrap.shorten(step[1], MAX_STEP_CHARS, placeholder="…"))
        process.wait()
    finally:
        timer.cancel()
        with contextlib.suppress(ProcessLookupError):  # after Ctrl-C
            os.killpg(process.pid, signal.SIGTERM)
    if process.returncode:
        raise TrialError(f"make build IMAGE={image} failed: {' '.join(last)}")


def _try_in_image(
    archive: Path, request_file: Path | None, image: str, docker: Docker, network: str = "none"
) -> Outcome:
    """Serve an archive in a container, as `make run STORAGE=` does; raise TrialError."""
    with tempfile.TemporaryDirectory(prefix="migrate-") as folder:
        target = MOUNT if archive.is_dir() else f"{MOUNT}/{name_in_storage(archive)}"
        mounts = [f"--volume={archive.resolve()}:{target}:ro"]
        arguments = [str(PORT), HEALTH, ROUTE, str(LOAD_TIMEOUT_S)]
        if request_file:
            copy = Path(folder) / "request"
            shutil.copyfile(request_file, copy)
            copy.chmod(0o644)
            mounts.append(f"--volume={copy}:/mnt/request:ro")
            arguments += [find_content_type(request_file), "/mnt/request"]
        try:
            container = docker.start(
                image,
                *mounts,
                *("--read-only", "--tmpfs=/tmp:size=1g", "--cap-drop=ALL", "--pids-limit=256"),
                *(
                    "--security-opt=no-new-privileges",
                    f"--network={network}",
                    "--hostname=localhost",
                ),
                env=_container_variables(os.environ),
            )
        except DockerError as error:
            raise TrialError(str(error)) from error
        try:
            outcome = _run_request(container, arguments)
        except DockerError as error:
            raise TrialError(str(error)) from error
        finally:
            container.remove()
    return dataclasses.replace(outcome, place=describe_image(image), network=network != "none")


def _container_variables(environ: Mapping[str, str]) -> dict[str, str]:
    passed = {name: environ[name] for name in VARIABLES if environ.get(name)}
    return passed | {
        "AIP_HTTP_PORT": str(PORT),
        "AIP_HEALTH_ROUTE": HEALTH,
        "AIP_PREDICT_ROUTE": ROUTE,
        "AIP_STORAGE_URI": MOUNT,
        "LOG_FORMAT": "json",
    }


def _run_request(container: Container, arguments: list[str]) -> Outcome:
    """Send the request in the container; raise DockerError."""
    command = ("exec", container.name, "/opt/venv/bin/python", "-c")
    program = Path(request.__file__).read_text()
    timeout_s = LOAD_TIMEOUT_S + request.REQUEST_TIMEOUT_S + 30
    result: dict[str, Any] = {}
    failure = ""
    try:
        result = json.loads(container.docker(*command, program, *arguments, timeout_s=timeout_s))
        if (result.get("response") or {}).get("status", 0) >= 500:
            time.sleep(LOG_DELAY_S)
    except DockerError as error:
        failure = str(error).splitlines()[-1]
        deadline = time.monotonic() + 10
        while container.is_running and time.monotonic() < deadline:
            time.sleep(0.1)
    records = [json.loads(line) for line in container.logs().splitlines() if line.startswith("{")]
    log = "\n".join(record["message"] for record in records if _read_process(record) == "worker")
    if failure:
        if not container.is_running and records:
            failure = str(records[-1]["message"]).removeprefix("cannot serve: ")
        return Outcome(error=failure, log=log)
    return Outcome(result["startup_s"], response=result.get("response"), log=log)


def _read_process(record: Mapping[str, Any]) -> str:
    return str(record.get("logging.googleapis.com/labels", {}).get("process"))
