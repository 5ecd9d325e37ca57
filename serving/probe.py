"""Ask a served model the golden request that its archive carries."""

import http.client
import json
import socket
import zipfile
from pathlib import Path
from typing import NamedTuple
from urllib.parse import urlsplit

from serving.archive import GOLDEN_REQUEST


class NotServable(Exception):
    """A file that is no archive of ours; the text says why."""


class Answer(NamedTuple):
    """What came back from a probe."""

    healthy: bool
    detail: str
    """The status and body, or why there is none."""


def golden_request(archive: Path) -> bytes:
    """Return the request that an archive carries to be probed with; raise NotServable."""
    try:
        with zipfile.ZipFile(archive) as contents:
            contents.getinfo("MAR-INF/MANIFEST.json")
            return contents.read(GOLDEN_REQUEST)
    except FileNotFoundError:
        raise NotServable(f"{archive} does not exist: run make archive") from None
    except (zipfile.BadZipFile, OSError) as error:
        raise NotServable(f"{archive} is no archive: {error}") from error
    except KeyError as error:
        raise NotServable(f"{archive} is no archive of this project's: {error.args[0]}") from None


def ask(address: str, model: str, request: bytes, timeout_s: float) -> Answer:
    """Send a request to TorchServe at http://HOST:PORT or unix:PATH; never raises for its faults.

    The answer is healthy when it is a 200 with predictions. That they are the right ones is
    seen to by the handler, which refuses to start otherwise.
    """
    connection = _connection(address, timeout_s)
    headers = {"Content-Type": "application/json", "Host": "localhost"}
    try:
        connection.request("POST", f"/predictions/{model}", request, headers)
        response = connection.getresponse()
        body = response.read()
        document = json.loads(body)
        healthy = (
            response.status == 200 and isinstance(document, dict) and "predictions" in document
        )
    except (OSError, http.client.HTTPException, ValueError) as error:
        return Answer(False, f"{type(error).__name__}: {error}")
    finally:
        connection.close()
    return Answer(healthy, f"{response.status} {body[:200].decode(errors='replace')}")


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
