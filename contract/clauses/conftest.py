"""The image under test, started as Vertex AI would, and the table at the end."""

import contextlib
import json
import re
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from contract.http import Unreachable, accepts_connections, get_health
from contract.vertex import Container, Options, Variables, default_routes, uploaded_with


def pytest_addoption(parser: pytest.Parser) -> None:
    group = parser.getgroup("contract")
    group.addoption("--image", required=True)
    group.addoption("--instances", type=Path, required=True)
    group.addoption("--docker", default="docker")
    group.addoption("--rights", default="vertex")
    group.addoption("--ready-s", type=float, default=300)
    group.addoption("--liveness-s", type=float, default=40)
    group.addoption("--port", type=int)
    group.addoption("--health-route")
    group.addoption("--predict-route")


@pytest.fixture(scope="session")
def options(pytestconfig: pytest.Config) -> Options:
    """Return what the command line asked for."""
    get = pytestconfig.getoption
    return Options(
        get("image"),
        get("docker"),
        get("rights"),
        get("ready_s"),
        get("liveness_s"),
        get("port"),
        get("health_route"),
        get("predict_route"),
    )


@pytest.fixture(scope="session")
def instances(pytestconfig: pytest.Config) -> list[Any]:
    """Return the instances to send: from {"instances": [...]}, an array, or JSON lines."""
    text = pytestconfig.getoption("instances").read_text()
    try:
        document = json.loads(text)
    except ValueError:
        document = [json.loads(line) for line in text.splitlines() if line.strip()]
    found = document["instances"] if isinstance(document, dict) else document
    assert found, "the file of instances is empty"
    return list(found)


class Watched(Container):
    """A container of which it was noted when it did what first."""

    port_open_s: float | None = None
    healthy_s: float | None = None
    ended = False


def _start(options: Options, variables: Variables) -> Iterator[Watched]:
    container = Watched(options, variables)
    try:
        _watch(container)
        yield container
    finally:
        container.remove()


def _watch(container: Watched) -> None:
    """Wait for the port, then for health, as long as Vertex would; never fails by itself."""
    while container.healthy_s is None:
        elapsed = time.monotonic() - container.began
        if not container.running:
            container.ended = True
            return
        if container.port_open_s is None and accepts_connections(container):
            container.port_open_s = elapsed
        if container.port_open_s is None and elapsed > container.options.liveness_s:
            return
        with contextlib.suppress(Unreachable):  # not yet; the deadline is above and below
            if get_health(container).code == 200:
                container.healthy_s = time.monotonic() - container.began
                # It may have opened between the two questions.
                container.port_open_s = container.port_open_s or container.healthy_s
        if elapsed > container.options.ready_s:
            return
        time.sleep(0.05)


@pytest.fixture(scope="session")
def started(options: Options) -> Iterator[Watched]:
    """Start the image as a model of it was uploaded, and wait until it is healthy, or is not."""
    yield from _start(options, uploaded_with(options))


@pytest.fixture
def started_anew(options: Options) -> Iterator[Watched]:
    """Start the image once more and return the moment that it says it is healthy."""
    yield from _start(options, uploaded_with(options))


@pytest.fixture(scope="session")
def started_with_defaults(options: Options) -> Iterator[Watched]:
    """Start the image on the routes that Vertex takes where a model names none."""
    if options.health or options.predict:
        pytest.skip("the model is uploaded with routes of its own")
    yield from _start(options, default_routes(options))


def why(container: Watched) -> str:
    """Return what there is to say of a container that is not healthy."""
    state = "it ended by itself" if container.ended else "it runs"
    return f"{state}; the end of its log:\n{container.last_lines()}"


@pytest.fixture
def ready(started: Watched) -> Watched:
    """Give the container where it is healthy; a clause that needs it fails where it is not."""
    if started.healthy_s is None:
        pytest.fail(f"the container never became healthy: {why(started)}", pytrace=False)
    return started


def _clause(nodeid: str) -> str:
    words = nodeid.rpartition("::test_")[2].replace("_", " ")
    return re.sub(r"AIP( [A-Z]+)+", lambda match: match[0].replace(" ", "_"), words)


def pytest_terminal_summary(terminalreporter: pytest.TerminalReporter) -> None:
    """Write a line a clause: kept or broken, and why."""
    terminalreporter.section("Vertex AI's container contract")
    for outcome, word in (
        ("passed", "kept  "),
        ("failed", "BROKEN"),
        ("error", "BROKEN"),
        ("skipped", "-     "),
    ):
        for report in terminalreporter.stats.get(outcome, []):
            terminalreporter.write_line(f"{word}  {_clause(report.nodeid)}")
            if outcome != "passed":
                skipped = isinstance(report.longrepr, tuple)
                text = report.longrepr[2] if skipped else str(report.longrepr)
                reason = text.strip().splitlines()
                said = [line[2:].strip() for line in reason if line.startswith("E ")] or reason
                terminalreporter.write_line(f"        {said[0][:200]}")
