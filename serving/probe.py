"""Probe a served model by a prediction request, or by the state of its workers."""

import functools
import http.client
import json
import socket
from collections.abc import Callable
from typing import NamedTuple
from urllib.parse import urlsplit

from serving.torchserve_config import TorchServeConfig


class ProbeResult(NamedTuple):
    """The result of one probe."""

    healthy: bool
    detail: str
    """The status and body, or the error that prevented a response."""

    @property
    def is_timeout(self) -> bool:
        """Whether there was no response in time."""
        return self.detail.startswith(TimeoutError.__name__)


def probe_prediction(address: str, model: str, request: bytes, timeout_s: float) -> ProbeResult:
    """Send a request to the model at http://HOST:PORT or unix:PATH; its errors are not raised.

    The model is healthy if the response is a 200 with predictions. Whether they are right is
    checked by the handler, which does not start otherwise.
    """
    document, detail = _send(address, "POST", f"/predictions/{model}", request, timeout_s)
    return ProbeResult(isinstance(document, dict) and "predictions" in document, detail)


def probe_workers(management: str, model: str, timeout_s: float) -> ProbeResult:
    """Check by TorchServe's management API whether a worker has loaded the model.

    Used for models without a golden request; errors are not raised.
    """
    document, detail = _send(management, "GET", f"/models/{model}", None, timeout_s)
    try:
        ready = any(worker["status"] == "READY" for worker in document[0]["workers"])  # type: ignore[index]
    except (TypeError, LookupError):
        ready = False
    return ProbeResult(ready, detail)


def create_probe(
    config: TorchServeConfig, golden_request: bytes | None, address: str | None = None
) -> Callable[[float], ProbeResult]:
    """Return a function that probes the model with a timeout in seconds.

    `address` is that of predictions if it is not TorchServe's own.
    """
    if golden_request is None:
        return functools.partial(probe_workers, config.management_address, config.model_name)
    return functools.partial(
        probe_prediction, address or config.address, config.model_name, golden_request
    )


def _send(
    address: str, method: str, path: str, body: bytes | None, timeout_s: float
) -> tuple[object, str]:
    """Return the JSON of a 200 (None for any other response), and the status and body as text."""
    connection = _connect(address, timeout_s)
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


def _connect(address: str, timeout_s: float) -> http.client.HTTPConnection:
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
