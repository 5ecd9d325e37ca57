"""Runs the checks with pytest, and prints PASS, FAIL or SKIP for each requirement."""

import contextlib
import itertools
import re
from collections.abc import Iterator
from pathlib import Path

import pytest

from contract.docker import Docker
from contract.vertex import SANDBOXES, Options, Process, Server, StartProcess, Variables

CHECKS_FILE = Path(__file__).parent / "checks.py"
OUTCOMES = {"passed": "PASS", "failed": "FAIL", "error": "FAIL", "skipped": "SKIP"}
SUITE_KEY = pytest.StashKey["Suite"]()


def run(options: Options, start: StartProcess | None = None) -> int:
    """Check a server, by default a container of `options.image`; return the exit code."""

    def start_container(variables: Variables) -> Process:
        env, sandbox = variables.environ(), SANDBOXES[options.sandbox]
        return Docker(options.docker).start(options.image, *sandbox, env=env)

    arguments = [str(CHECKS_FILE), f"--rootdir={CHECKS_FILE.parent.parent}"]
    arguments += ["--override-ini=addopts=", "-q", "-rN", "--tb=no", "--no-header"]
    arguments += ["-p", "no:cacheprovider"]
    arguments += [f"--junit-xml={options.junit}"] if options.junit else []
    return int(pytest.main(arguments, plugins=[Suite(options, start or start_container)]))


class Suite:
    """A pytest plugin: it gives the checks their options and a server, and prints the results."""

    def __init__(self, options: Options, start: StartProcess) -> None:
        self.options, self._start = options, start

    def pytest_configure(self, config: pytest.Config) -> None:
        """Store the plugin where the fixtures look it up."""
        config.stash[SUITE_KEY] = self

    @contextlib.contextmanager
    def running(self, variables: Variables) -> Iterator[Server]:
        """Start a server, wait until it is healthy or its time is up, and remove it afterwards."""
        process = self._start(variables)
        try:
            server = Server(process, variables)
            server.wait_until_healthy(self.options.ready_s, self.options.liveness_s)
            yield server
        finally:
            process.remove()

    def pytest_itemcollected(self, item: pytest.Item) -> None:
        """Record a check's requirement: its docstring, followed by its parameter in brackets."""
        text = str(getattr(item, "obj").__doc__).partition("\n")[0].rstrip(".")  # noqa: B009
        parameter = re.search(r"\[(.+)\]$", item.name)
        requirement = text + (f" ({parameter[1]})" if parameter else "")
        item.user_properties.append(("requirement", requirement))

    def pytest_terminal_summary(self, terminalreporter: pytest.TerminalReporter) -> None:
        """Print one line for each requirement, and the reason if it did not pass."""
        terminalreporter.section("Vertex AI's container contract")
        for outcome, word in OUTCOMES.items():
            for report in terminalreporter.stats.get(outcome, []):
                requirement = dict(report.user_properties)["requirement"]
                terminalreporter.write_line(f"{word}  {requirement}")
                if outcome != "passed":
                    skipped = isinstance(report.longrepr, tuple)
                    text = report.longrepr[2] if skipped else str(report.longrepr)
                    # pytest marks the reason; the log lines that a reason announces follow it.
                    marked = re.search(r"^E +(.*)", text, re.MULTILINE | re.DOTALL)
                    reason = (marked[1] if marked else text).strip().splitlines()
                    shown = 6 if reason[0].endswith("log lines:") else 1
                    reason[0] = reason[0].removeprefix("AssertionError: ")
                    for line in itertools.takewhile(str.strip, reason[:shown]):
                        terminalreporter.write_line(f"      {line.strip()[:200]}")
