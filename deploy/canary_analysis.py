"""Watch a canary in Cloud Monitoring."""

import argparse
import re
import time
from dataclasses import dataclass
from typing import TYPE_CHECKING

from deploy.errors import UserError
from deploy.plan import State

if TYPE_CHECKING:
    from deploy.gcp import Google

MIN_SAMPLES = 10
"""Answers below which an error rate says nothing."""


@dataclass(frozen=True)
class Limits:
    """What a canary must keep."""

    minutes: float
    """how long it is watched"""
    error_rate: float = 0.01
    """of all its answers, 0 to 1"""
    p95_ms: float = float("inf")


@dataclass(frozen=True)
class CanaryMetrics:
    """What Cloud Monitoring has of one deployed model."""

    answers: int = 0
    errors: int = 0
    """5xx: what is the model's fault, not the client's"""
    p95_ms: float | None = None

    def __str__(self) -> str:
        p95 = f", p95 {self.p95_ms:.0f} ms" if self.p95_ms is not None else ""
        return f"{self.answers} answers, {self.errors} errors{p95}"


def find_violation(seen: CanaryMetrics, limits: Limits) -> str | None:
    """Say what is wrong with a canary; None where nothing is, or where there are too few answers to tell."""
    if seen.answers < MIN_SAMPLES:
        return None
    rate = seen.errors / seen.answers
    if rate > limits.error_rate:
        return f"{seen.errors} of {seen.answers} answers are errors ({rate:.1%}, the limit is {limits.error_rate:.1%})"
    if seen.p95_ms is not None and seen.p95_ms > limits.p95_ms:
        return f"p95 is {seen.p95_ms:.0f} ms (the limit is {limits.p95_ms:.0f} ms)"
    return None


def find_trouble(google: "Google", version: str, limits: Limits) -> str | None:
    """Look every so often until the time is over; return what is wrong, or None.

    Raises:
        Stop: too few requests reached the canary to say anything of it.

    """
    state = google.state() or State()
    number = next((each.id for each in state.deployed if each.version == version), "")
    pause = 30.0 if not google.settings.api_endpoint else 1.0
    google.say(
        f"→ watching version {version} for {limits.minutes:g} min "
        "(Cloud Monitoring is 2 to 4 minutes late; Ctrl-C leaves the canary as it is)"
    )
    began, seen, told = time.monotonic(), CanaryMetrics(), 0.0
    while (gone := time.monotonic() - began) < limits.minutes * 60:
        time.sleep(min(pause, limits.minutes * 60 - gone + 0.1))
        seen = fetch_metrics(google, number, (time.monotonic() - began) / 60)
        if wrong := find_violation(seen, limits):
            return wrong
        if gone - told >= 60:
            told = gone
            google.say(f"  {gone / 60:.0f} min: {seen}")
    if seen.answers < MIN_SAMPLES:
        raise UserError(
            f"only {seen.answers} requests reached the canary in {limits.minutes:g} minutes: that says nothing",
            "it keeps its traffic; watch longer, give it more traffic, or roll back",
        )
    google.say(f"  {seen}")
    return None


def fetch_metrics(google: "Google", deployed: str, minutes: float) -> CanaryMetrics:
    """Return what Cloud Monitoring has of a deployed model, of the last minutes."""
    answers = errors = 0
    for labels, count in google.series("response_count", "ALIGN_DELTA", minutes):
        if labels.get("deployed_model_id") == deployed:
            answers += round(count)
            errors += round(count) if labels.get("response_code", "").startswith("5") else 0
    slowest = None
    for labels, ms in google.series("prediction_latencies", "ALIGN_PERCENTILE_95", minutes):
        total = labels.get("latency_type", "total") == "total"
        if labels.get("deployed_model_id") == deployed and total:
            slowest = max(slowest or 0.0, ms)
    return CanaryMetrics(answers, errors, slowest)


def minutes(text: str) -> float:
    """Read 90s, 10m or 1h, as an option's type."""
    found = _number(text, {"s": 1 / 60, "m": 1, "h": 60}, "a time such as 90s, 10m or 1h")
    if not found:
        raise argparse.ArgumentTypeError(f"{text!r} is no time to watch for")
    return found


def rate(text: str) -> float:
    """Read 1% or 0.01, as an option's type."""
    found = _number(text, {"%": 0.01, "": 1}, "a rate such as 1% or 0.01")
    if found > 1:
        raise argparse.ArgumentTypeError(f"{text!r} is not a rate: it is more than 100%")
    return found


def milliseconds(text: str) -> float:
    """Read 300ms or 1.5s, as an option's type."""
    return _number(text, {"ms": 1, "s": 1000}, "a time such as 300ms or 1.5s")


def _number(text: str, units: dict[str, float], expected: str) -> float:
    match = re.fullmatch(r"([0-9]+(?:\.[0-9]+)?)([a-z%]*)", text)
    if match is None or match[2] not in units:
        raise argparse.ArgumentTypeError(f"{text!r} is not {expected}")
    return float(match[1]) * units[match[2]]
