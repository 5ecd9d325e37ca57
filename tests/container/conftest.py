"""The image, built once, and containers of it as Vertex AI would start them."""

import contextlib
import json
import os
import re
import subprocess
import time
import zipfile
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, NamedTuple

import pytest

from tests.http import Endpoint, wait_for
from tests.pictures import ARCHIVE, ROOT

DOCKER = os.environ.get("DOCKER", "docker")
IMAGE = os.environ.get("IMAGE", "vertex-torchserve:test")
HARDENED = (
    "--read-only",
    "--tmpfs",
    "/tmp:size=1g",
    "--cap-drop",
    "ALL",
    "--security-opt",
    "no-new-privileges",
    "--user",
    "10001",
    "--memory",
    "2g",
    "--pids-limit",
    "256",
)
RFC_3339 = re.compile(r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d(\.\d+)?Z")
PROCESSES = ("entrypoint", "front", "torchserve", "worker", "telemetry")

KILL = """
import os, pathlib, sys
for entry in pathlib.Path("/proc").glob("[0-9]*"):
    line = (entry / "cmdline").read_bytes().decode()
    if sys.argv[1] in line and int(entry.name) not in (1, os.getpid()):
        os.kill(int(entry.name), 9)
"""


def docker(*arguments: str, timeout_s: float = 60, check: bool = True) -> str:
    """Run one docker command and return what it printed on both streams."""
    done = subprocess.run(
        [DOCKER, *arguments],
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        timeout=timeout_s,
        check=False,
    )
    assert not check or done.returncode == 0, f"docker {' '.join(arguments)}:\n{done.stdout}"
    return done.stdout


class Container(NamedTuple):
    """A container that was started; it may have ended since."""

    name: str

    def logs(self) -> str:
        return docker("logs", self.name)

    def said(self) -> list[dict[str, Any]]:
        """Return the log's lines; each must be a JSON object with Cloud Logging's fields."""
        lines = [json.loads(line) for line in self.logs().splitlines()]
        for line in lines:
            assert line["severity"] in ("DEBUG", "INFO", "WARNING", "ERROR", "CRITICAL"), line
            assert line["message"], line
            assert RFC_3339.fullmatch(line["time"]), line
            assert line["logging.googleapis.com/labels"]["process"] in PROCESSES, line
        return lines

    def last_word(self) -> str:
        """Return the message of the log's last line."""
        return str(self.said()[-1]["message"])

    def state(self, field: str) -> str:
        return docker("inspect", "--format", f"{{{{.State.{field}}}}}", self.name).strip()

    def address(self) -> str:
        """Return its IP address on Docker's bridge."""
        where = "{{range .NetworkSettings.Networks}}{{.IPAddress}}{{end}}"
        return docker("inspect", "--format", where, self.name).strip()

    def run(self, *command: str) -> str:
        return docker("exec", self.name, *command)

    def kill(self, what: str) -> None:
        """End by SIGKILL every process whose command line has `what` in it."""
        self.run("/opt/venv/bin/python", "-c", KILL, what)

    def endpoint(self, port: int, path: str) -> Endpoint:
        return Endpoint(f"http://{self.address()}:{port}{path}")

    def wait_until_ended(self, within_s: float) -> int:
        wait_for(lambda: self.state("Running") == "false", within_s, "the container's end")
        return int(self.state("ExitCode"))


Start = Callable[..., Container]


@pytest.fixture(scope="session")
def image() -> str:
    """Build the image with make, unless PREBUILT says that it is there; skip where there is no Docker."""
    try:
        docker("version")
    except (OSError, AssertionError, subprocess.TimeoutExpired) as error:
        if os.environ.get("REQUIRE_DOCKER"):
            raise
        pytest.skip(f"needs a Docker engine, and none answers to {DOCKER!r}: {error}"[:300])
    if os.environ.get("PREBUILT"):
        docker("image", "inspect", IMAGE)
        return IMAGE
    build = ["make", "build", f"IMAGE={IMAGE}", f"DOCKER={DOCKER}"]
    done = subprocess.run(
        build, cwd=ROOT, capture_output=True, text=True, timeout=1800, check=False
    )
    assert done.returncode == 0, done.stdout[-3000:] + done.stderr[-3000:]
    return IMAGE


@contextlib.contextmanager
def starting(image: str) -> Iterator[Start]:
    """Give a function that starts containers of the image; all are removed at the end."""
    started: list[str] = []
    json_logs: list[Container] = []

    def _start(*options: str, **environ: str) -> Container:
        variables = [word for pair in environ.items() for word in ("--env", "=".join(pair))]
        name = docker("run", "--detach", *options, *variables, image).strip().splitlines()[-1]
        started.append(name)
        if environ.get("LOG_FORMAT") != "text":
            json_logs.append(Container(name))
        return Container(name)

    try:
        yield _start
        for container in json_logs:
            container.said()  # every line of every log is one that Cloud Logging can read
    finally:
        for name in started:
            docker("rm", "--force", name)


@pytest.fixture
def start(image: str) -> Iterator[Start]:
    """Return a function that starts containers for one test."""
    with starting(image) as start:
        yield start


def wait_until_healthy(endpoint: Endpoint, health: str, within_s: float = 90) -> float:
    """Return the seconds until the health route says 200."""
    began = time.monotonic()

    def healthy() -> bool:
        try:
            return endpoint.send("GET", health).code == 200
        except OSError:
            return False

    wait_for(healthy, within_s, "a healthy container")
    return time.monotonic() - began


VERTEX = {
    "AIP_HTTP_PORT": "9000",
    "AIP_HEALTH_ROUTE": "/v1/endpoints/123/deployedModels/456",
    "AIP_PREDICT_ROUTE": "/v1/endpoints/123/deployedModels/456:predict",
    "AIP_STORAGE_URI": "",
    "AIP_MODE": "PREDICTION",
    "AIP_MODE_VERSION": "1.0.0",
    "AIP_FRAMEWORK": "CUSTOM_CONTAINER",
    "AIP_PROJECT_NUMBER": "1",
    "AIP_ENDPOINT_ID": "123",
    "AIP_DEPLOYED_MODEL_ID": "456",
}
"""The variables that Vertex sets, with the routes that it takes where a model names none."""


@pytest.fixture(scope="session")
def vertex(image: str) -> Iterator[Container]:
    """Start one container as Vertex would, with the least of rights, and wait until it is ready."""
    with starting(image) as start:
        container = start(*HARDENED, **VERTEX)
        wait_until_healthy(container.endpoint(9000, "/"), VERTEX["AIP_HEALTH_ROUTE"])
        yield container


@pytest.fixture(scope="session")
def endpoint(vertex: Container) -> Endpoint:
    """Return the predict route of that container."""
    return vertex.endpoint(9000, VERTEX["AIP_PREDICT_ROUTE"])


@pytest.fixture
def broken_archive(tmp_path: Path) -> str:
    """Return a copy of the archive whose weights are cut short."""
    path = tmp_path / "digits.mar"
    with zipfile.ZipFile(ARCHIVE) as whole, zipfile.ZipFile(path, "w") as broken:
        for name in whole.namelist():
            content = whole.read(name)
            broken.writestr(name, content[:1000] if name == "weights.safetensors" else content)
    path.chmod(0o644)
    return str(path)
