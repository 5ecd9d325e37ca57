"""Load on a server, from wrk: https://github.com/wg/wrk."""

import json
import shutil
import subprocess
from pathlib import Path
from typing import NamedTuple

SCRIPT = """
wrk.method = "POST"
wrk.headers["Content-Type"] = "application/json"
local file = io.open("BODY", "rb"); wrk.body = file:read("*a"); file:close()
PAUSE
function done(summary, latency, requests)
  local failed = summary.errors.status + summary.errors.connect + summary.errors.read
               + summary.errors.write + summary.errors.timeout
  print(string.format(
    '\\n{"requests": %d, "microseconds": %d, "failed": %d, "p50": %d, "p99": %d}',
    summary.requests, summary.duration, failed, latency:percentile(50), latency:percentile(99)))
end
"""


class NoWrk(Exception):
    """wrk is not installed."""


class Load(NamedTuple):
    """What came of some seconds of it."""

    requests_s: float
    p50_ms: float
    p99_ms: float
    failed: int
    """Requests that were not answered with a 2xx or 3xx."""


def press(url: str, body: Path, clients: int, seconds: float, pause_ms: int = 0) -> Load:
    """Ask a server with so many clients, each with one request at a time; raise NoWrk.

    Each waits `pause_ms` before its next request.
    """
    if not shutil.which("wrk"):
        raise NoWrk("wrk is missing: apt-get install wrk, or brew install wrk")
    script = body.with_suffix(f".{pause_ms}.lua")
    pause = f"function delay() return {pause_ms} end" if pause_ms else ""
    script.write_text(SCRIPT.replace("BODY", str(body.resolve())).replace("PAUSE", pause))
    done = subprocess.run(
        [
            "wrk",
            "--threads",
            "1",
            "--connections",
            str(clients),
            "--duration",
            f"{seconds:g}s",
            "--timeout",
            "60s",
            "--script",
            str(script),
            url,
        ],
        capture_output=True,
        text=True,
        timeout=seconds + 120,
        check=True,
    )
    said = json.loads(done.stdout.strip().splitlines()[-1])
    return Load(
        said["requests"] / said["microseconds"] * 1e6,
        said["p50"] / 1000,
        said["p99"] / 1000,
        said["failed"],
    )
