"""A running container of the image under measurement."""

import contextlib
import time
from collections.abc import Callable, Iterator
from typing import NamedTuple

from benchmarks.errors import StartError
from benchmarks.load import Client
from contract.docker import Container, Docker, DockerError

PORT, HEALTH, PREDICT = 8080, "/ping", "/predict"
VARIABLES = {
    "AIP_HTTP_PORT": str(PORT),
    "AIP_HEALTH_ROUTE": HEALTH,
    "AIP_PREDICT_ROUTE": PREDICT,
    "LOG_FORMAT": "text",
}
PYTHON = "/opt/venv/bin/python"
START_TIMEOUT_S = 180
MEMORY_SCRIPT = """
from serving.telemetry import processes
print(sum(processes.memory_bytes().values()))
"""
CPU_SCRIPT = """
import os, pathlib
files = pathlib.Path("/proc").glob("[0-9]*/stat")
ticks = (file.read_text().rpartition(")")[2].split()[11:13] for file in files)
print(sum(int(user) + int(system) for user, system in ticks) / os.sysconf("SC_CLK_TCK"))
"""


class Server(NamedTuple):
    """A container and its address on Docker's bridge network."""

    container: Container
    host: str

    @property
    def base_url(self) -> str:
        """The URL before the routes."""
        return f"http://{self.host}:{PORT}"

    @property
    def url(self) -> str:
        """The URL of its predict route."""
        return self.base_url + PREDICT

    def is_healthy(self) -> bool:
        """Return whether the health route returns 200."""
        return Client(self.base_url, 10).send(HEALTH) == 200

    def cpu_s(self) -> float:
        """Return the processor time that its running processes have used."""
        return float(self.container.exec(PYTHON, "-c", CPU_SCRIPT))

    def memory_mb(self) -> float:
        """Return the memory of all its processes (PSS)."""
        return int(self.container.exec(PYTHON, "-c", MEMORY_SCRIPT)) / 1e6


@contextlib.contextmanager
def running(
    docker: str, image: str, *options: str, is_ready: Callable[[Server], bool] = Server.is_healthy
) -> Iterator[Server]:
    """Start a container with options of `docker run`, wait until `is_ready`, and remove it afterwards.

    Raises DockerError, and StartError if the image does not exist or the container is not ready within
    START_TIMEOUT_S.
    """
    client = Docker(docker)
    try:
        container = client.start(image, *options, env=VARIABLES)
    except DockerError:
        # Only after a failure: `make startup` measures the time of this call.
        if client.is_available() and not client("images", "--quiet", image):
            missing = f"the image {image} does not exist: run make build IMAGE={image}"
            raise StartError(missing) from None
        raise
    try:
        server = Server(container, container.address)
        deadline = time.monotonic() + START_TIMEOUT_S
        while not is_ready(server):
            if time.monotonic() > deadline:
                log = container.logs(tail=5)
                raise StartError(f"{image} is not ready after {START_TIMEOUT_S} s:\n{log}")
            time.sleep(0.02)
        yield server
    finally:
        container.remove()
