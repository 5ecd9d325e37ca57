"""Ask a served model whether it answers."""

import functools
import http.client
import json
import socket
from collections.abc import Callable
from typing import NamedTuple
from urllib.parse import urlsplit

from serving.torchserve import TorchServeConfig


class ProbeResult(NamedTuple):
    """What came back from a probe."""

    healthy: bool
    detail: str
    """The status and body, or why there is none."""


def probe_prediction(address: str, model: str, request: bytes, timeout_s: float) -> ProbeResult:
    """Send a request to TorchServe at http://HOST:PORT or unix:PATH; never raises for its faults.

    The answer is healthy when it is a 200 with predictions. That they are the right ones is
    seen to by the handler, which refuses to start otherwise.
    """
    document, detail = _send(address, "POST", f"/predictions/{model}", request, timeout_s)
    return ProbeResult(isinstance(document, dict) and "predictions" in document, detail)


def probe_workers(management: str, model: str, timeout_s: float) -> ProbeResult:
    """Ask TorchServe's management API whether a worker has loaded the model; as `ask` otherwise.

    For a model without a request that it could be asked.
    """
    document, detail = _send(management, "GET", f"/models/{model}", None, timeout_s)
    try:
        ready = any(worker["status"] == "READY" for worker in document[0]["workers"])  # type: ignore[index]
    except (TypeError, LookupError):
        ready = False
    return ProbeResult(ready, detail)


def create_probe(
    settings: TorchServeConfig, golden_request: bytes | None
) -> Callable[[float], ProbeResult]:
    """Return a function that is given seconds and tells whether the model answers within them."""
    if golden_request is None:
        return functools.partial(probe_workers, settings.management_address, settings.model_name)
    return functools.partial(
        probe_prediction, settings.address, settings.model_name, golden_request
    )


def _send(
    address: str, method: str, path: str, body: bytes | None, timeout_s: float
) -> tuple[object, str]:
    """Return the JSON of a 200, None for any other answer, and the status and body as text."""
    connection = _connection(address, timeout_s)
    headers = {"Content-Type": "application/json", "Host": "localhost"}
    try:
        connection.request(method, path, body, headers)
        response = connection.getresponse()
        text = response.read()
        document = json.loads(text) if response.status == 200 else None
    except (OSError, http.client.HTTPException, ValueError) as error:
        return None, f"{type(error).__name__}: {error}"
    finally:
        connection.close()
    return document, f"{response.status} {text[:200].decode(errors='replace')}"


def _connection(address: str, timeout_s: float) -> http.client.HTTPConnection:
    if address.startswith("unix:"):
        return _UnixConnection(address.removeprefix("unix:"), timeout_s)
    return http.client.HTTPConnection(urlsplit(address).netloc, timeout=timeout_s)


class _UnixConnection(http.client.HTTPConnection):
    def __init__(self, path: str, timeout_s: float) -> None:
        super().__init__("localhost", timeout=timeout_s)
        self._path = path

    def connect(self) -> None:
        self.sock = socket.socket(socket.AF_UNIX)
        self.sock.settimeout(self.timeout)
        self.sock.connect(self._path)
