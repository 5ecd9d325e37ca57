"""Compares a canary's metrics in Cloud Monitoring with limits."""

import argparse
import re
import time
from dataclasses import dataclass

from deploy.clients import CloudClients
from deploy.errors import UserError
from deploy.plan import EndpointState
from deploy.text import format_duration, plural

MIN_SAMPLES = 10
"""Responses below which a canary is not judged."""
MIN_MINUTES, MAX_MINUTES = 5, 48 * 60
"""The duration of a watch. Below the minimum, metrics arrive when it has ended."""
DEFAULT_ERROR_RATE = 0.01
POLL_S, EMULATOR_POLL_S = 30.0, 1.0
REPORT_INTERVAL_S = 60


@dataclass(frozen=True, kw_only=True)
class Limits:
    """The limits of a canary."""

    minutes: float
    """How long the canary is watched."""
    error_rate: float
    """The share of 5xx among all responses, 0 to 1."""
    p95_ms: float


@dataclass(frozen=True)
class CanaryMetrics:
    """The metrics of one deployed model."""

    responses: int = 0
    errors: int = 0
    """5xx: the model's errors, not the client's."""
    p95_ms: float | None = None

    def __str__(self) -> str:
        p95 = f", p95 {self.p95_ms:.0f} ms" if self.p95_ms is not None else ""
        return f"{plural(self.responses, 'response')}, {plural(self.errors, 'error')}{p95}"


def find_violation(metrics: CanaryMetrics, limits: Limits) -> str | None:
    """Return which limit is exceeded; None if none is, or with fewer than MIN_SAMPLES responses."""
    if metrics.responses < MIN_SAMPLES:
        return None
    rate = metrics.errors / metrics.responses
    if rate > limits.error_rate:
        return (
            f"{metrics.errors} of {metrics.responses} responses are errors "
            f"({rate:.1%}, the limit is {limits.error_rate:.1%})"
        )
    if metrics.p95_ms is not None and metrics.p95_ms > limits.p95_ms:
        return f"p95 is {metrics.p95_ms:.0f} ms (the limit is {limits.p95_ms:.0f} ms)"
    return None


def watch_canary(cloud: CloudClients, version: str, limits: Limits) -> str | None:
    """Poll a canary's metrics for `limits.minutes`; return the first violation, or None.

    Raises UserError if the canary got fewer than MIN_SAMPLES requests.
    """
    state = cloud.vertex.endpoint_state() or EndpointState()
    deployed_id = next((model.id for model in state.deployed if model.version == version), "")
    pause_s = EMULATOR_POLL_S if cloud.settings.api_endpoint else POLL_S
    cloud.report(
        f"→ watching version {version} for {format_duration(limits.minutes * 60)} "
        "(metrics are 2 to 4 minutes late; Ctrl-C leaves the canary as it is)"
    )
    duration_s = limits.minutes * 60
    started_s, reported_s, metrics = time.monotonic(), 0.0, CanaryMetrics()
    while (elapsed_s := time.monotonic() - started_s) < duration_s:
        time.sleep(min(pause_s, duration_s - elapsed_s + 0.1))
        metrics = fetch_metrics(cloud, deployed_id, (time.monotonic() - started_s) / 60)
        if violation := find_violation(metrics, limits):
            return violation
        if elapsed_s - reported_s >= REPORT_INTERVAL_S:
            reported_s = elapsed_s
            cloud.report(f"  after {format_duration(elapsed_s)}: {metrics}")
    if metrics.responses < MIN_SAMPLES:
        raise UserError(
            f"the canary got only {plural(metrics.responses, 'request')} in {format_duration(duration_s)}, "
            f"but {MIN_SAMPLES} are needed to judge it",
            "it keeps its traffic: watch it for longer, give it more traffic, or roll back",
        )
    cloud.report(f"  {metrics}")
    return None


def fetch_metrics(cloud: CloudClients, deployed_id: str, minutes: float) -> CanaryMetrics:
    """Return a deployed model's metrics over the last minutes."""
    read_metric = cloud.monitoring.read_metric
    responses = errors = 0
    for labels, count in read_metric("response_count", "ALIGN_DELTA", minutes):
        if labels.get("deployed_model_id") == deployed_id:
            responses += round(count)
            errors += round(count) if labels.get("response_code", "").startswith("5") else 0
    p95_ms = None
    for labels, ms in read_metric("prediction_latencies", "ALIGN_PERCENTILE_95", minutes):
        is_total = labels.get("latency_type", "total") == "total"
        if labels.get("deployed_model_id") == deployed_id and is_total:
            p95_ms = max(p95_ms or 0.0, ms)
    return CanaryMetrics(responses, errors, p95_ms)


def check_options(
    watch: float | None, max_error_rate: float | None, max_p95: float | None, *, is_emulator: bool
) -> None:
    """Raise UserError for limits that would have no effect."""
    limits = {"--max-error-rate": max_error_rate, "--max-p95": max_p95}
    given = [option for option, value in limits.items() if value is not None]
    if watch is None and given:
        raise UserError(f"{given[0]} without --watch has no effect", "add --watch 10m")
    if watch is not None and watch < MIN_MINUTES and not is_emulator:
        raise UserError(
            f"--watch {format_duration(watch * 60)} is too short: Cloud Monitoring's metrics are 2 to 4 minutes late",
            f"watch for {MIN_MINUTES}m or longer",
        )


def parse_minutes(text: str) -> float:
    """Parse the option value 10m or 1h."""
    minutes = _parse_number(text, {"s": 1 / 60, "m": 1, "h": 60}, "a time such as 10m or 1h")
    if not 0 < minutes <= MAX_MINUTES:
        raise argparse.ArgumentTypeError(
            f"{text!r} is not a time above 0 and up to {MAX_MINUTES // 60}h"
        )
    return minutes


def parse_rate(text: str) -> float:
    """Parse the option value 1%. A number without the unit could mean a share or a percentage."""
    rate = _parse_number(text, {"%": 0.01}, "a percentage such as 1% or 0.5%")
    if rate >= 1:
        raise argparse.ArgumentTypeError(f"{text!r} is not a limit: expected less than 100%")
    return rate


def parse_milliseconds(text: str) -> float:
    """Parse the option value 300ms or 1.5s."""
    milliseconds = _parse_number(text, {"ms": 1, "s": 1000}, "a time such as 300ms or 1.5s")
    if not milliseconds:
        raise argparse.ArgumentTypeError(f"{text!r} is not a time above 0")
    return milliseconds


def parse_percent(text: str) -> int:
    """Parse the option value 10 or 10%, a share of the traffic."""
    percent = _parse_number(text, {"%": 1, "": 1}, "a percentage from 1 to 99")
    if percent != int(percent) or not 1 <= percent <= 99:
        raise argparse.ArgumentTypeError(f"{text!r} is not a whole percentage from 1 to 99")
    return int(percent)


def _parse_number(text: str, units: dict[str, float], expected: str) -> float:
    match = re.fullmatch(r"([0-9]{1,9}(?:\.[0-9]{1,9})?)([a-z%]*)", text)
    if match is None or match[2] not in units:
        raise argparse.ArgumentTypeError(f"{text!r} is not {expected}")
    return float(match[1]) * units[match[2]]
