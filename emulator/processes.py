"""Local processes, their ports, and HTTP requests to them."""

import contextlib
import socket
import subprocess
import time
from typing import Any

import requests
from requests.adapters import HTTPAdapter

Process = subprocess.Popen[bytes]
POLL_S = 0.05


def free_port(host: str) -> int:
    """Return a port on which nothing listens."""
    with socket.socket() as probe:
        probe.bind((host, 0))
        port: int = probe.getsockname()[1]
        return port


def wait_for_port(process: Process, host: str, port: int, timeout_s: float) -> bool:
    """Wait until a process listens on a port; return False if it exits or the wait times out."""
    deadline = time.monotonic() + timeout_s
    while process.poll() is None and time.monotonic() < deadline:
        with socket.socket() as probe:
            probe.settimeout(1)
            if probe.connect_ex((host, port)) == 0:
                return True
        time.sleep(POLL_S)
    return False


def terminate(process: Process, timeout_s: float = 10) -> None:
    """Send SIGTERM to a process, and SIGKILL if it does not exit in time."""
    process.terminate()
    try:
        process.wait(timeout_s)
    except subprocess.TimeoutExpired:
        process.kill()
        process.wait(timeout_s)


def send_request(
    verb: str, url: str, timeout_s: float, *, is_streamed: bool = False, **options: Any
) -> requests.Response:
    """Send one request over its own connection, without proxies, redirects or a session.

    The caller reads and closes a streamed response.
    """
    request = requests.Request(verb, url, **options).prepare()
    with contextlib.closing(HTTPAdapter()) as adapter:
        response = adapter.send(request, timeout=timeout_s, stream=is_streamed)
        if not is_streamed:
            _ = response.content  # read before the connection is closed
        return response
