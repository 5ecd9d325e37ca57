"""Load on a server, made by wrk (https://github.com/wg/wrk) with the script wrk.lua."""

import json
import shutil
import subprocess
from pathlib import Path
from typing import NamedTuple

SCRIPT = Path(__file__).with_name("wrk.lua")


class WrkMissingError(Exception):
    """wrk is not installed; the text says how to install it."""


class Load(NamedTuple):
    """The result of one run of wrk."""

    requests_s: float
    """Answers a second, whatever their status."""
    p50_ms: float
    p99_ms: float
    failed: int
    """Requests without an answer below 400, the refused ones included."""
    refused: int = 0
    """Answers with status 429."""


def press(url: str, body: Path, clients: int, seconds: float, pause_s: float = 0) -> Load:
    """Send requests from `clients`, each with one request at a time; raise WrkMissingError.

    With `pause_s` each client pauses before a request, for that long on average: requests then
    arrive at random, `clients / pause_s` a second for as long as answers are quick.
    """
    if not shutil.which("wrk"):
        raise WrkMissingError("wrk is not installed: apt-get install wrk, or brew install wrk")
    options = f"--threads 1 --connections {clients} --duration {seconds:g}s --timeout 60s"
    done = subprocess.run(
        ["wrk", *options.split(), "--script", SCRIPT, url, "--", body, f"{pause_s:g}"],
        capture_output=True,
        text=True,
        timeout=seconds + 120,
        check=True,
    )
    found = json.loads(done.stdout.strip().splitlines()[-1])
    return Load(
        found["requests"] / found["microseconds"] * 1e6,
        found["p50"] / 1000,
        found["p99"] / 1000,
        found["failed"],
        found["refused"],
    )
