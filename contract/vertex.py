"""A server as Vertex AI starts it and sends requests to it: variables, routes, rights and probes."""

import contextlib
import json
import secrets
import socket
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple, Protocol

import requests

LIVENESS_S = 40
"""Vertex tries a TCP connection up to four times, ten seconds apart, then restarts."""
PROBE_S = 10
"""How long a health response may take."""
ONLINE_S = 60
"""How long a shared endpoint waits for a prediction."""
POLL_S = 0.05
READ_ONLY = ("--read-only", "--tmpfs=/tmp:size=1g")
LEAST = "--cap-drop=ALL --security-opt=no-new-privileges --user=10001 --memory=2g --pids-limit=256"
RIGHTS = {"vertex": (), "read-only": READ_ONLY, "least": (*READ_ONLY, *LEAST.split())}
"""What a container may do, as options of `docker run`: what Vertex AI lets it, or less."""


@dataclass(frozen=True)
class Options:
    """The options of the command line, which explains them."""

    image: str
    """Empty for a server that is no container."""
    instances: Path
    docker: str = "docker"
    rights: str = "vertex"
    junit: Path | None = None
    ready_s: float = 300
    liveness_s: float = LIVENESS_S
    port: int | None = None
    """None for a random one; likewise the routes."""
    health_route: str | None = None
    predict_route: str | None = None


class Variables(NamedTuple):
    """The AIP_* variables that the clauses use."""

    port: int
    health: str
    predict: str
    endpoint_id: str = "123"
    deployed_model_id: str = "456"

    def environ(self) -> dict[str, str]:
        """Return all the variables that Vertex sets for a CPU model with no artifact."""
        return {
            "AIP_HTTP_PORT": str(self.port),
            "AIP_HEALTH_ROUTE": self.health,
            "AIP_PREDICT_ROUTE": self.predict,
            "AIP_STORAGE_URI": "",
            "AIP_MODE": "PREDICTION",
            "AIP_MODE_VERSION": "1.0.0",
            "AIP_FRAMEWORK": "CUSTOM_CONTAINER",
            "AIP_PROJECT_NUMBER": "123456789012",
            "AIP_ENDPOINT_ID": self.endpoint_id,
            "AIP_MODEL_NAME": self.endpoint_id,
            "AIP_DEPLOYED_MODEL_ID": self.deployed_model_id,
            "AIP_VERSION_NAME": self.deployed_model_id,
            "AIP_MACHINE_TYPE": "n1-standard-2",
        }


def uploaded_with(options: Options) -> Variables:
    """Return the port and routes that the model is uploaded with; random where it names none.

    No image can have been made for random ones.
    """
    word = secrets.token_hex(4)
    health, predict = options.health_route or f"/h/{word}", options.predict_route or f"/p/{word}:x"
    return Variables(options.port or _random_port(), health, predict)


def default_routes(options: Options) -> Variables:
    """Return the routes that Vertex uses if a model names none."""
    endpoint, deployed = str(secrets.randbits(60)), str(secrets.randbits(60))
    health = f"/v1/endpoints/{endpoint}/deployedModels/{deployed}"
    port = options.port or _random_port()
    return Variables(port, health, f"{health}:predict", endpoint, deployed)


def _random_port() -> int:
    return 20_000 + secrets.randbelow(10_000)


class UnreachableError(AssertionError):
    """No response came; it fails the clause that needed one."""


class Process(Protocol):
    """What runs; it may have ended. A `contract.docker.Container` is one, and has these docstrings."""

    @property
    def address(self) -> str: ...  # noqa: D102

    @property
    def is_running(self) -> bool: ...  # noqa: D102

    def logs(self, *, tail: int | None = None) -> str: ...  # noqa: D102

    def remove(self) -> None: ...  # noqa: D102


Start = Callable[[Variables], Process]


@dataclass
class Server:
    """A process that was started, and how many seconds later it first did what."""

    process: Process
    variables: Variables
    port_open_s: float | None = None
    healthy_s: float | None = None
    first_code: int | None = None
    """The status of the prediction that was sent as soon as it was healthy."""

    def get_health(self) -> requests.Response:
        """Request the health route once; raise Unreachable."""
        return self._send("GET", self.variables.health, None, PROBE_S)

    def predict(self, body: bytes | dict[str, Any]) -> requests.Response:
        """Send a request to the predict route; raise Unreachable."""
        content = body if isinstance(body, bytes) else json.dumps(body).encode()
        return self._send("POST", self.variables.predict, content, ONLINE_S)

    def describe(self) -> str:
        """Return whether it runs, and the end of its log."""
        state = "it runs" if self.process.is_running else "it ended by itself"
        return f"{state}; the end of its log:\n{self.process.logs(tail=5)}"

    def watch(self, ready_s: float, liveness_s: float) -> None:
        """Wait for the port, then for health, as long as Vertex would; never fails by itself."""
        began = time.monotonic()
        elapsed = 0.0
        while self.healthy_s is None and elapsed <= ready_s and self.process.is_running:
            elapsed = time.monotonic() - began
            if self.port_open_s is None:
                with contextlib.suppress(OSError):  # closed, from outside
                    address = (self.process.address, self.variables.port)
                    socket.create_connection(address, timeout=2).close()
                    self.port_open_s = elapsed
            if self.port_open_s is None and elapsed > liveness_s:
                return
            with contextlib.suppress(UnreachableError):  # not yet; the time limits are above
                if self.get_health().status_code == 200:
                    self.healthy_s = time.monotonic() - began
                    # The port may have opened between the two requests.
                    self.port_open_s = self.port_open_s or self.healthy_s
            time.sleep(POLL_S)

    def _send(
        self, verb: str, path: str, body: bytes | None, timeout_s: float
    ) -> requests.Response:
        url = f"http://{self.process.address}:{self.variables.port}{path}"
        headers = {"Content-Type": "application/json"} if body is not None else {}
        with requests.Session() as session:
            session.trust_env = False  # no proxy stands between this machine and the container
            try:
                return session.request(
                    verb, url, data=body, headers=headers, timeout=timeout_s, allow_redirects=False
                )
            except requests.RequestException as error:
                cause: BaseException = error
                while cause.__context__:
                    cause = cause.__context__
                raise UnreachableError(f"{verb} {path}: {type(cause).__name__}: {cause}") from None
