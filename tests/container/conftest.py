"""The image, built once for a test run, and containers of it as Vertex AI would start them."""

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
    """A container that was started; it may have ended since."""

    def __init__(self, name: str) -> None:
        super().__init__(docker, name)

    def said(self) -> list[dict[str, Any]]:
        """Parse the log's lines; each must be a JSON object with Cloud Logging's fields."""
        lines = [json.loads(line) for line in self.logs().splitlines()]
        for line in lines:
            assert line["severity"] in SEVERITIES, line
            assert line["message"], line
            assert RFC_3339.fullmatch(line["time"]), line
            assert line["logging.googleapis.com/labels"]["process"] in PROCESSES, line
        return lines

    def last_word(self) -> str:
        """Return the message of the log's last line."""
        return str(self.said()[-1]["message"])

    def processes(self, part: str = "") -> dict[int, int]:
        """Return the resident KiB of the processes whose command line has `part` in it, by ID."""
        rows = docker("top", self.name, "-eo", "pid,rss,args").splitlines()[1:]
        return {int(r.split()[0]): int(r.split()[1]) for r in rows if part in r}

    def workers(self) -> list[int]:
        """Return the process IDs of the workers."""
        found = sorted(self.processes("model_service_worker"))
        assert found
        return found

    def kill(self, what: str) -> None:
        """End by SIGKILL every process whose command line has `what` in it."""
        self.exec("/opt/venv/bin/python", "-c", KILL, what)

    def endpoint(self, port: int, path: str) -> Endpoint:
        return Endpoint(f"http://{self.address}:{port}{path}")

    def wait_until_ended(self, within_s: float) -> int:
        wait_for(lambda: not self.is_running, within_s, "the container's end")
        return self.exit_code


Start = Callable[..., Container]


@pytest.fixture(scope="session")
def image(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """Build the image, once for all workers of a run; the last to use it removes it.

    Where the environment names an IMAGE, that one is built and stays; with PREBUILT it is not
    built either. Skips where there is no Docker engine.
    """
    named = os.environ.get("IMAGE")
    if os.environ.get("PREBUILT"):
        name = named or "vertex-torchserve:test"
        docker("image", "inspect", name)
        yield name
        return
    if not docker.is_available():
        pytest.skip(f"needs a Docker engine, and none answers to {DOCKER!r}")
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
def starting(image: str) -> Iterator[Start]:
    """Give a function that starts containers of the image; all are removed at the end."""
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
            container.said()  # every line of every log is one that Cloud Logging can read
    finally:
        for container in started:
            with contextlib.suppress(DockerError):
                container.remove()


@pytest.fixture
def start(image: str) -> Iterator[Start]:
    """Return a function that starts containers for one test."""
    with starting(image) as start:
        yield start


def wait_until_healthy(endpoint: Endpoint, health: str) -> None:
    """Wait until the health route answers 200."""

    def healthy() -> bool:
        try:
            return endpoint.send("GET", health).code == 200
        except OSError:
            return False

    wait_for(healthy, 90, "a healthy container")


ROUTE = "/v1/endpoints/123/deployedModels/456"
VERTEX = Variables(9000, ROUTE, f"{ROUTE}:predict").environ() | {"AIP_PROJECT_NUMBER": "1"}
"""The variables that Vertex sets, with the routes that it takes where a model names none."""


@pytest.fixture(scope="session")
def vertex(image: str) -> Iterator[Container]:
    """Start one container as Vertex would, with the least of rights, and wait until it is ready.

    Tests share it: none ends it or its processes, and all are in one group of pytest-xdist.
    """
    with starting(image) as start:
        container = start(*HARDENED, **VERTEX)
        wait_until_healthy(container.endpoint(9000, "/"), VERTEX["AIP_HEALTH_ROUTE"])
        yield container


@pytest.fixture(scope="session")
def endpoint(vertex: Container) -> Endpoint:
    """Return the predict route of that container."""
    return vertex.endpoint(9000, VERTEX["AIP_PREDICT_ROUTE"])
