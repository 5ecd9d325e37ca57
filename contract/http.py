"""HTTP as Vertex AI's front speaks it to a container."""

import http.client
import json
import socket
import time
from typing import Any, NamedTuple

from contract.vertex import PROBE_S, Container

ONLINE_S = 60
"""How long a shared endpoint waits for a prediction."""


class Answer(NamedTuple):
    """What came back, and after how long."""

    code: int
    body: bytes
    content_type: str
    seconds: float

    def json(self) -> Any:
        """Parse the body; fails the clause where it is no JSON."""
        try:
            return json.loads(self.body)
        except ValueError:
            raise AssertionError(f"not JSON: {self.body[:200]!r}") from None


class Unreachable(AssertionError):
    """No answer came; it fails the clause that needed one."""


def get_health(container: Container) -> Answer:
    """Ask the health route once; raise Unreachable."""
    return _send(container, "GET", container.variables.health, None, PROBE_S)


def predict(container: Container, body: bytes | dict[str, Any]) -> Answer:
    """Send a request to the predict route; raise Unreachable."""
    content = body if isinstance(body, bytes) else json.dumps(body).encode()
    return _send(container, "POST", container.variables.predict, content, ONLINE_S)


def accepts_connections(container: Container) -> bool:
    """Tell whether the port is open, from outside the container."""
    try:
        address = (container.address, container.variables.port)
        with socket.create_connection(address, timeout=2):
            return True
    except OSError:
        return False


def _send(
    container: Container, method: str, path: str, body: bytes | None, timeout_s: float
) -> Answer:
    address, port = container.address, container.variables.port
    connection = http.client.HTTPConnection(address, port, timeout=timeout_s)
    headers = {"Content-Type": "application/json"} if body is not None else {}
    began = time.monotonic()
    try:
        connection.request(method, path, body, headers)
        response = connection.getresponse()
        content = response.read()
    except (OSError, http.client.HTTPException) as error:
        raise Unreachable(f"{method} {path}: {type(error).__name__}: {error}") from None
    finally:
        connection.close()
    seconds = time.monotonic() - began
    return Answer(response.status, content, response.getheader("Content-Type") or "", seconds)
