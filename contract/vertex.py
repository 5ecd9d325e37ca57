"""A server as Vertex AI runs it: its environment variables, routes, sandbox, probes and requests."""

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

LIVENESS_TIMEOUT_S = 40
"""Vertex AI tries a TCP connection up to four times, ten seconds apart, then restarts the container."""
HEALTH_TIMEOUT_S = 10
"""The maximum time of a health response."""
PREDICTION_TIMEOUT_S = 60
"""The maximum time of a prediction on a shared endpoint."""
POLL_INTERVAL_S = 0.05
READ_ONLY_OPTIONS = ("--read-only", "--tmpfs=/tmp:size=1g")
RESTRICTED_OPTIONS = (
    *READ_ONLY_OPTIONS,
    *("--cap-drop=ALL", "--security-opt=no-new-privileges", "--user=10001"),
    *("--memory=2g", "--pids-limit=256"),
)
SANDBOXES = {"vertex": (), "read-only": READ_ONLY_OPTIONS, "restricted": RESTRICTED_OPTIONS}
"""Isolation of the container, as options of `docker run`: as on Vertex AI, or stricter."""


@dataclass(frozen=True, kw_only=True)
class Options:
    """The options of `python -m contract`; its --help describes them."""

    image: str
    """Empty for a server that does not run in a container."""
    instances: Path
    docker: str = "docker"
    sandbox: str = "vertex"
    junit: Path | None = None
    ready_s: float = 300
    liveness_s: float = LIVENESS_TIMEOUT_S
    port: int | None = None
    """None: a random port. The routes likewise."""
    health_route: str | None = None
    predict_route: str | None = None


class Variables(NamedTuple):
    """The AIP_* variables that differ between starts."""

    port: int
    health: str
    predict: str
    endpoint_id: str = "123"
    deployed_model_id: str = "456"

    def environ(self) -> dict[str, str]:
        """Return all variables that Vertex AI sets for a CPU model without an artifact."""
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


def variables_for_upload(options: Options) -> Variables:
    """Return variables with the port and routes of the upload; those that it lacks are random.

    Only an image that reads the variables serves random routes.
    """
    token = secrets.token_hex(4)
    health = options.health_route or f"/h/{token}"
    predict = options.predict_route or f"/p/{token}:x"
    return Variables(options.port or _random_port(), health, predict)


def variables_with_default_routes(options: Options) -> Variables:
    """Return variables with the routes that Vertex AI uses for a model that is uploaded without routes."""
    endpoint, deployed = str(secrets.randbits(60)), str(secrets.randbits(60))
    health = f"/v1/endpoints/{endpoint}/deployedModels/{deployed}"
    port = options.port or _random_port()
    return Variables(port, health, f"{health}:predict", endpoint, deployed)


def _random_port() -> int:
    """Return a port that is free on this machine: the server may be a process without a container."""
    while True:
        port = 20_000 + secrets.randbelow(10_000)
        with socket.socket() as listener, contextlib.suppress(OSError):
            listener.bind(("", port))
            return port


class Example(NamedTuple):
    """An instance, and the parameters that are sent with it."""

    instance: Any
    parameters: dict[str, Any]


FORMATS = (
    '[{"instance": ..., "parameters": {...}}, ...] as in requests.json, {"instances": [...]}, '
    "an array of instances, or JSON lines"
)


def read_examples(path: Path) -> list[Example]:
    """Return the instances of a file in one of FORMATS; raise ValueError."""
    try:
        text = path.read_text()
        try:
            document = json.loads(text)
        except ValueError:
            document = [json.loads(line) for line in text.splitlines() if line.strip()]
    except OSError as error:
        raise ValueError(f"{path}: {error.strerror}") from None
    except ValueError as error:
        raise ValueError(f"{path} is not JSON: {error}") from None
    shared: Any = document.get("parameters") if isinstance(document, dict) else None
    if isinstance(document, dict):
        document = document.get("instances")
    if not isinstance(document, list) or not document:
        raise ValueError(f"{path}: expected {FORMATS}")
    if all(isinstance(item, dict) and "instance" in item for item in document):
        found = [Example(item["instance"], item.get("parameters") or {}) for item in document]
    else:
        found = [Example(instance, shared or {}) for instance in document]
    if not all(isinstance(example.parameters, dict) for example in found):
        raise ValueError(f"{path}: parameters: expected an object")
    return found


def build_request(examples: list[Example]) -> dict[str, Any]:
    """Return the body of a request with the instances of examples, which have the same parameters."""
    parameters = {"parameters": examples[0].parameters} if examples[0].parameters else {}
    return {"instances": [example.instance for example in examples], **parameters}


def group_by_parameters(examples: list[Example]) -> list[list[Example]]:
    """Return the examples that a request may have together, the largest group first."""
    groups: dict[str, list[Example]] = {}
    for example in examples:
        groups.setdefault(json.dumps(example.parameters, sort_keys=True), []).append(example)
    return sorted(groups.values(), key=len, reverse=True)


class UnreachableError(AssertionError):
    """The server sent no response; the check that needs one fails."""


class Process(Protocol):
    """A process that was started; it may have ended. `contract.docker.Container` implements it."""

    @property
    def address(self) -> str: ...  # noqa: D102

    @property
    def is_running(self) -> bool: ...  # noqa: D102

    def logs(self, *, tail: int | None = None) -> str: ...  # noqa: D102

    def remove(self) -> None: ...  # noqa: D102


StartProcess = Callable[[Variables], Process]


@dataclass
class Server:
    """A started process, and the seconds after its start at which its port opened and it was healthy."""

    process: Process
    variables: Variables
    port_open_s: float | None = None
    healthy_s: float | None = None
    first_status: int | None = None
    """The status of the prediction that was sent as soon as the server was healthy."""

    def get_health(self) -> requests.Response:
        """Request the health route once; raise UnreachableError."""
        return self._send("GET", self.variables.health, None, HEALTH_TIMEOUT_S)

    def predict(self, body: bytes | dict[str, Any]) -> requests.Response:
        """Send a request to the predict route; raise UnreachableError."""
        content = body if isinstance(body, bytes) else json.dumps(body).encode()
        return self._send("POST", self.variables.predict, content, PREDICTION_TIMEOUT_S)

    def describe(self) -> str:
        """Return the state of the process and the last lines of its log."""
        state = "it is running" if self.process.is_running else "it exited"
        return f"{state}; its last log lines:\n{self.process.logs(tail=5)}"

    def wait_until_healthy(self, ready_s: float, liveness_s: float) -> None:
        """Return when the server is healthy, exited, or exceeded one of the two time limits."""
        started = time.monotonic()
        elapsed_s = 0.0
        while self.healthy_s is None and elapsed_s <= ready_s and self.process.is_running:
            elapsed_s = time.monotonic() - started
            if self.port_open_s is None:
                with contextlib.suppress(OSError):  # the port is still closed
                    address = (self.process.address, self.variables.port)
                    socket.create_connection(address, timeout=2).close()
                    self.port_open_s = elapsed_s
            if self.port_open_s is None and elapsed_s > liveness_s:
                return
            with contextlib.suppress(UnreachableError):  # not ready yet; the loop bounds the time
                if self.get_health().status_code == 200:
                    self.healthy_s = time.monotonic() - started
                    # The port may have opened between the two requests.
                    self.port_open_s = self.port_open_s or self.healthy_s
            time.sleep(POLL_INTERVAL_S)

    def _send(
        self, verb: str, path: str, body: bytes | None, timeout_s: float
    ) -> requests.Response:
        url = f"http://{self.process.address}:{self.variables.port}{path}"
        headers = {"Content-Type": "application/json"} if body is not None else {}
        with requests.Session() as session:
            session.trust_env = False  # requests to a container must bypass a proxy
            try:
                return session.request(
                    verb, url, data=body, headers=headers, timeout=timeout_s, allow_redirects=False
                )
            except requests.RequestException as error:
                cause: BaseException = error
                while cause.__context__:
                    cause = cause.__context__
                raise UnreachableError(f"{verb} {path}: {type(cause).__name__}: {cause}") from None
