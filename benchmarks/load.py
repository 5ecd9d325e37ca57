"""Load on a server, made by wrk (https://github.com/wg/wrk) with the script wrk.lua."""

import json
import shutil
import statistics
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
    seconds: float = 1
    """How long it took."""


def press(url: str, body: Path, clients: int, seconds: float, rate_s: float = 0) -> Load:
    """Send requests from `clients`, each with one request at a time; raise WrkMissingError.

    With `rate_s` they send that many requests a second in all, at random distances, however quick
    the answers are; `clients` must then be more than wait for an answer at the same time.
    """
    if not shutil.which("wrk"):
        raise WrkMissingError("wrk is not installed: apt-get install wrk, or brew install wrk")
    options = f"--threads 1 --connections {clients} --duration {seconds:g}s --timeout 60s"
    done = subprocess.run(
        ["wrk", *options.split(), "--script", SCRIPT, url, "--", body, f"{rate_s:g}"],
        capture_output=True,
        text=True,
        timeout=seconds + 120,
        check=True,
    )
    found = json.loads(done.stdout.strip().splitlines()[-1])
    spent_s, p50_ms, p99_ms = found["microseconds"] / 1e6, found["p50"] / 1000, found["p99"] / 1000
    answers_s = found["requests"] / spent_s
    return Load(answers_s, p50_ms, p99_ms, found["failed"], found["refused"], spent_s)


def median(loads: list[Load]) -> Load:
    """Return the medians of several runs."""
    return Load(*(statistics.median(values) for values in zip(*loads, strict=True)))
