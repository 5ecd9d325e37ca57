"""What answers the page's requests: a server on this machine, or a deployed endpoint."""

from __future__ import annotations

import contextlib
import json
import re
from http import HTTPStatus
from typing import TYPE_CHECKING, NamedTuple, Protocol

import requests

from project.cli import ProjectError

if TYPE_CHECKING:
    from collections.abc import Generator

    from deploy.clients import CloudClients

TIMEOUT_S = 300
"""For one prediction; the page shows its answer when it is complete."""


HEADERS = {"Content-Type": "application/json"}


class TargetError(ProjectError):
    """The endpoint cannot be used. The text says why."""


class Endpoint(NamedTuple):
    """Names a deployed endpoint, for the gcloud command."""

    name: str
    project: str
    region: str


class Target(Protocol):
    """Answers predict requests."""

    url: str
    """The URL that a client posts to."""
    deployed: bool
    """Whether requests need Google's credentials."""
    endpoint: Endpoint

    def predict(self, body: bytes) -> tuple[int, bytes]:
        """Send the body of a predict request; return the status and the body of the response."""
        ...

    def stream(self, body: bytes) -> tuple[int, Generator[bytes]]:
        """Send the body of a request for a stream; return the status and the parts of the response."""
        ...


class LocalServer:
    """A server without authentication, as `make serve` and `make run` start it."""

    deployed = False

    def __init__(self, url: str, endpoint: Endpoint) -> None:
        self.url, self.endpoint = url, endpoint

    def predict(self, body: bytes) -> tuple[int, bytes]:
        """Post the body as it is."""
        code, parts = self.stream(body)
        return code, b"".join(parts)

    def stream(self, body: bytes) -> tuple[int, Generator[bytes]]:
        """Post the body as it is."""
        try:
            return _read_parts(
                requests.post(self.url, body, headers=HEADERS, timeout=TIMEOUT_S, stream=True)
            )
        except requests.ConnectionError:
            text = f"cannot connect to {self.url}; start the server with: make serve"
        except requests.RequestException as error:
            text = f"{self.url}: {error}"
        code, content = _fail(text)
        return code, (part for part in [content])


class DeployedEndpoint:
    """A Vertex AI endpoint, called with the credentials of `gcloud auth application-default login`."""

    deployed = True

    def __init__(self, cloud: CloudClients) -> None:
        s = cloud.settings
        host = s.api_endpoint or f"https://{s.region}-aiplatform.googleapis.com"
        self.url = f"{host}/v1/{s.endpoint}:predict"
        self.endpoint = Endpoint(s.name, s.project, s.region)
        self._cloud = cloud

    def predict(self, body: bytes) -> tuple[int, bytes]:
        """Send the request by Vertex AI's client."""
        from deploy.errors import DeployError  # noqa: PLC0415  only where it is used

        try:
            response = self._cloud.vertex.predict(json.loads(body))
        except DeployError as error:
            # Vertex AI passes the model's own error on as a part of its message.
            own = re.search(r'\{"error":.*\}\}', error.message)
            with contextlib.suppress(ValueError, KeyError, TypeError):
                if own:
                    return int(json.loads(own[0])["error"]["code"]), own[0].encode()
            return _fail(f"{error.message}; {error.hint}")
        return HTTPStatus.OK, json.dumps(response).encode()

    def stream(self, body: bytes) -> tuple[int, Generator[bytes]]:
        """Send the request as it is, with Vertex AI's method for streams."""
        from deploy.errors import DeployError  # noqa: PLC0415  only where it is used

        try:
            return _read_parts(self._cloud.vertex.stream_raw_predict(body, HEADERS, TIMEOUT_S))
        except (DeployError, requests.RequestException) as error:
            code, content = _fail(str(error))
            return code, (part for part in [content])


def find_endpoint(options: dict[str, str | None]) -> Endpoint | None:
    """Return the endpoint of these settings, deploy.toml and the last deployment; None if there is none."""
    try:
        from deploy import settings  # noqa: PLC0415  its packages are not installed for serving alone
        from deploy.errors import DeployError  # noqa: PLC0415
    except ImportError:
        return None
    try:
        found = settings.load(options)
    except DeployError:
        return None
    return Endpoint(found.name, found.project, found.region)


def open_endpoint(options: dict[str, str | None]) -> DeployedEndpoint:
    """Return the endpoint of deploy.toml and of these settings; raise TargetError."""
    try:
        # Google's libraries take seconds to import, and are not installed for serving alone.
        from deploy import settings  # noqa: PLC0415
        from deploy.clients import CloudClients  # noqa: PLC0415
        from deploy.errors import DeployError  # noqa: PLC0415
    except ImportError as error:
        raise TargetError(f"an endpoint needs more packages ({error}): make setup") from None
    try:
        return DeployedEndpoint(CloudClients.create(settings.load(options)))
    except DeployError as error:
        raise TargetError(f"{error.message}; {error.hint}") from None


def _read_parts(response: requests.Response) -> tuple[int, Generator[bytes]]:
    def read() -> Generator[bytes]:
        try:
            with response:
                yield from response.iter_content(None)
        except requests.RequestException as error:
            yield _fail(f"the stream was interrupted: {error}")[1] + b"\n"

    return response.status_code, read()


def _fail(message: str) -> tuple[int, bytes]:
    error = {"code": HTTPStatus.BAD_GATEWAY, "status": "UNAVAILABLE", "message": message}
    return HTTPStatus.BAD_GATEWAY, json.dumps({"error": error}).encode()
