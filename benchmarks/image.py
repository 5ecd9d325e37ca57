"""A running container of the image under measurement, and a client for it."""

import contextlib
import sys
import time
from collections.abc import Callable, Iterator
from typing import NamedTuple

import requests

from contract.docker import Container, Docker

PORT, HEALTH, PREDICT = 8080, "/ping", "/predict"
VARIABLES = {
    "AIP_HTTP_PORT": str(PORT),
    "AIP_HEALTH_ROUTE": HEALTH,
    "AIP_PREDICT_ROUTE": PREDICT,
    "LOG_FORMAT": "text",
}
PYTHON = "/opt/venv/bin/python"
START_TIMEOUT_S = 180
MEMORY = "from telemetry import processes; print(sum(processes.memory().values()))"


class Client:
    """A client with one connection that it keeps, as Vertex AI does."""

    def __init__(self, host: str, timeout_s: float) -> None:
        self._url, self._timeout_s = f"http://{host}:{PORT}", timeout_s
        self._session = requests.Session()
        self._session.trust_env = False  # a proxy does not know Docker's addresses

    def send(self, path: str, body: bytes | None = None) -> int | str:
        """Send a GET, or a POST of `body`; return the status, or why there is none."""
        url, headers = self._url + path, {"Content-Type": "application/json"}
        request = requests.Request("POST" if body else "GET", url, headers, data=body).prepare()
        try:
            return self._session.send(request, timeout=self._timeout_s).status_code
        except requests.Timeout:
            return "timed out"
        except requests.RequestException:
            return "cut off"


class Server(NamedTuple):
    """A container and its address on Docker's bridge."""

    container: Container
    host: str

    @property
    def url(self) -> str:
        """The URL of its predict route."""
        return f"http://{self.host}:{PORT}{PREDICT}"

    def is_healthy(self) -> bool:
        """Return whether the health route answers 200."""
        return Client(self.host, 10).send(HEALTH) == 200

    def memory_mb(self) -> float:
        """Return the memory of all its processes (PSS)."""
        return int(self.container.exec(PYTHON, "-c", MEMORY)) / 1e6


@contextlib.contextmanager
def running(
    docker: str,
    image: str,
    *options: str,
    is_ready: Callable[[Server], bool] = Server.is_healthy,
) -> Iterator[Server]:
    """Start a container with options of `docker run` and remove it at the end; raise DockerError.

    The block runs once `is_ready`; the program ends if it never is.
    """
    container = Docker(docker).start(image, *options, env=VARIABLES)
    try:
        server = Server(container, container.address)
        deadline = time.monotonic() + START_TIMEOUT_S
        while not is_ready(server):
            if time.monotonic() > deadline:
                sys.exit(f"not ready within {START_TIMEOUT_S} s:\n{container.logs(tail=5)}")
            time.sleep(0.02)
        yield server
    finally:
        container.remove()
