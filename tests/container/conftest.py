"""Fixtures: the image, built once per test run, and containers started as on Vertex AI."""

import contextlib
import json
import os
import re
import subprocess
import uuid
from collections.abc import Callable, Iterator
from typing import Any

import pytest
from filelock import FileLock

from contract import docker as contract_docker
from contract.docker import Docker, DockerError
from contract.vertex import SANDBOXES, Variables
from serving.logs import SEVERITIES
from tests.http import Endpoint, wait_for
from tests.images import ROOT

DOCKER = os.environ.get("DOCKER", "docker")
docker = Docker(DOCKER)
HARDENED = SANDBOXES["restricted"]
RFC_3339 = re.compile(r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d(\.\d+)?Z")
PROCESSES = ("entrypoint", "nginx", "torchserve", "worker", "telemetry")

KILL = """
import os, pathlib, sys
for entry in pathlib.Path("/proc").glob("[0-9]*"):
    line = (entry / "cmdline").read_bytes().decode()
    if sys.argv[1] in line and int(entry.name) not in (1, os.getpid()):
        os.kill(int(entry.name), 9)
"""


class Container(contract_docker.Container):
    """A started container, running or not."""

    def __init__(self, name: str) -> None:
        super().__init__(docker, name)

    def log_lines(self) -> list[dict[str, Any]]:
        """Parse the log; each line must be a JSON object with Cloud Logging's fields."""
        lines = [json.loads(line) for line in self.logs().splitlines()]
        for line in lines:
            assert line["severity"] in SEVERITIES, line
            assert line["message"], line
            assert RFC_3339.fullmatch(line["time"]), line
            assert line["logging.googleapis.com/labels"]["process"] in PROCESSES, line
        return lines

    def last_message(self) -> str:
        """Return the message of the last log line."""
        return str(self.log_lines()[-1]["message"])

    def processes(self, part: str = "") -> dict[int, int]:
        """Return the resident KiB, by ID, of the processes whose command line contains `part`."""
        rows = docker("top", self.name, "-eo", "pid,rss,args").splitlines()[1:]
        return {int(r.split()[0]): int(r.split()[1]) for r in rows if part in r}

    def workers(self) -> list[int]:
        """Return the process IDs of the workers."""
        ids = sorted(self.processes("model_service_worker"))
        assert ids
        return ids

    def kill(self, part: str) -> None:
        """Send SIGKILL to each process whose command line contains `part`."""
        self.exec("/opt/venv/bin/python", "-c", KILL, part)

    def endpoint(self, port: int, path: str) -> Endpoint:
        return Endpoint(f"http://{self.address}:{port}{path}")

    def wait_until_ended(self, timeout_s: float) -> int:
        """Wait for the container to end; return its exit code."""
        wait_for(lambda: not self.is_running, timeout_s, "the container's end")
        return self.exit_code


Start = Callable[..., Container]


@pytest.fixture(scope="session")
def image(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """Build the image once for all workers of a run; the last user removes it.

    If the environment names an IMAGE, the image gets that name and is kept; with PREBUILT it is
    not built. Tests are skipped without a Docker engine.
    """
    named = os.environ.get("IMAGE")
    if os.environ.get("PREBUILT"):
        name = named or "vertex-torchserve:test"
        docker("image", "inspect", name)
        yield name
        return
    if not docker.is_available():
        pytest.skip(f"needs a Docker engine; {DOCKER!r} does not reach one")
    run = tmp_path_factory.getbasetemp()
    if "PYTEST_XDIST_WORKER" in os.environ:  # each worker has a folder within the run's
        run = run.parent
    me = uuid.uuid4().hex
    name = named or f"vertex-torchserve:test-{os.environ.get('PYTEST_XDIST_TESTRUNUID', me)[:12]}"
    users = run / "image-users"
    with FileLock(run / "image.lock"):
        if not users.is_dir():
            build = ["make", "build", f"IMAGE={name}", f"DOCKER={DOCKER}"]
            done = subprocess.run(
                build, cwd=ROOT, capture_output=True, text=True, timeout=1800, check=False
            )
            assert done.returncode == 0, done.stdout[-3000:] + done.stderr[-3000:]
            users.mkdir()
        (users / me).touch()
    yield name
    with FileLock(run / "image.lock"):
        (users / me).unlink()
        if not any(users.iterdir()):
            users.rmdir()
            if not named:
                docker("image", "rm", name)


@contextlib.contextmanager
def container_starter(image: str) -> Iterator[Start]:
    """Yield a function that starts containers of the image; all are removed at the end."""
    started: list[Container] = []
    json_logs: list[Container] = []

    def _start(*options: str, **environ: str) -> Container:
        container = Container(docker.start(image, *options, env=environ).name)
        started.append(container)
        if environ.get("LOG_FORMAT") != "text":
            json_logs.append(container)
        return container

    try:
        yield _start
        for container in json_logs:
            container.log_lines()  # checks that Cloud Logging can read each line
    finally:
        for container in started:
            with contextlib.suppress(DockerError):
                container.remove()


@pytest.fixture
def start(image: str) -> Iterator[Start]:
    """Yield a function that starts containers for one test."""
    with container_starter(image) as start:
        yield start


def wait_until_healthy(endpoint: Endpoint, health: str) -> None:
    """Wait until the health route returns 200."""

    def is_healthy() -> bool:
        try:
            return endpoint.send("GET", health).code == 200
        except OSError:
            return False

    wait_for(is_healthy, 90, "a healthy container")


ROUTE = "/v1/endpoints/123/deployedModels/456"
VERTEX = Variables(9000, ROUTE, f"{ROUTE}:predict").environ() | {"AIP_PROJECT_NUMBER": "1"}
"""The variables that Vertex AI sets for a model without routes of its own."""


@pytest.fixture(scope="session")
def vertex(image: str) -> Iterator[Container]:
    """Start a restricted container with Vertex AI's variables, and wait until it is healthy.

    Tests in one group of pytest-xdist share it and must not end it or its processes.
    """
    with container_starter(image) as start:
        container = start(*HARDENED, **VERTEX)
        wait_until_healthy(container.endpoint(9000, "/"), VERTEX["AIP_HEALTH_ROUTE"])
        yield container


@pytest.fixture(scope="session")
def endpoint(vertex: Container) -> Endpoint:
    """Return that container's predict route."""
    return vertex.endpoint(9000, VERTEX["AIP_PREDICT_ROUTE"])
