"""Processes on this machine, their ports, and requests to them."""

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
    """Return a port that nothing listens on."""
    with socket.socket() as probe:
        probe.bind((host, 0))
        port: int = probe.getsockname()[1]
        return port


def wait_for_port(process: Process, host: str, port: int, within_s: float) -> bool:
    """Wait until a process listens on a port; return whether it does."""
    until = time.monotonic() + within_s
    while process.poll() is None and time.monotonic() < until:
        with socket.socket() as probe:
            probe.settimeout(1)
            if probe.connect_ex((host, port)) == 0:
                return True
        time.sleep(POLL_S)
    return False


def terminate(process: Process, within_s: float = 10) -> None:
    """End a process: SIGTERM, and SIGKILL if it takes longer than that."""
    process.terminate()
    try:
        process.wait(within_s)
    except subprocess.TimeoutExpired:
        process.kill()
        process.wait(within_s)


def send_request(verb: str, url: str, timeout_s: float, **options: Any) -> requests.Response:
    """Send one request over a connection of its own; no proxies, no redirects, no session."""
    request = requests.Request(verb, url, **options).prepare()
    with contextlib.closing(HTTPAdapter()) as adapter:
        response = adapter.send(request, timeout=timeout_s)
        _ = response.content  # read before the connection is closed
        return response
