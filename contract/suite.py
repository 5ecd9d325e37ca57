"""The clauses as one run of pytest, with a table of the results."""

import contextlib
import re
from collections.abc import Iterator
from pathlib import Path

import pytest

from contract.docker import Docker
from contract.vertex import RIGHTS, Options, Process, Server, Start, Variables

CLAUSES = Path(__file__).parent / "checks.py"
OUTCOMES = {"passed": "PASS", "failed": "FAIL", "error": "FAIL", "skipped": "SKIP"}
SUITE = pytest.StashKey["Suite"]()


def run(options: Options, start: Start | None = None) -> int:
    """Check a server, by default a container of `options.image`; return the exit code."""

    def container(variables: Variables) -> Process:
        env, rights = variables.environ(), RIGHTS[options.rights]
        return Docker(options.docker).start(options.image, *rights, env=env)

    command = [str(CLAUSES), f"--rootdir={CLAUSES.parent.parent}", "--override-ini=addopts="]
    command += ["-q", "-rN", "--tb=no", "--no-header", "-p", "no:cacheprovider"]
    command += [f"--junit-xml={options.junit}"] if options.junit else []
    return int(pytest.main(command, plugins=[Suite(options, start or container)]))


class Suite:
    """The plugin that gives the clauses their options, and prints one line for each of them."""

    def __init__(self, options: Options, start: Start) -> None:
        self.options, self.start = options, start

    def pytest_configure(self, config: pytest.Config) -> None:
        """Let the fixtures find it."""
        config.stash[SUITE] = self

    @contextlib.contextmanager
    def running(self, variables: Variables) -> Iterator[Server]:
        """Start a server and wait until it is healthy, or will not be; remove it afterwards."""
        process = self.start(variables)
        try:
            server = Server(process, variables)
            server.watch(self.options.ready_s, self.options.liveness_s)
            yield server
        finally:
            process.remove()

    def pytest_itemcollected(self, item: pytest.Item) -> None:
        """Take the text of a clause from its docstring; a parameter follows in brackets."""
        text = str(getattr(item, "obj").__doc__).partition("\n")[0].rstrip(".")  # noqa: B009
        parameter = re.search(r"\[(.+)\]$", item.name)
        item.user_properties.append(("clause", text + (f" ({parameter[1]})" if parameter else "")))

    def pytest_terminal_summary(self, terminalreporter: pytest.TerminalReporter) -> None:
        """Print one line for each clause, and the reason where it did not pass."""
        terminalreporter.section("Vertex AI's container contract")
        for outcome, word in OUTCOMES.items():
            for report in terminalreporter.stats.get(outcome, []):
                terminalreporter.write_line(f"{word}  {dict(report.user_properties)['clause']}")
                if outcome != "passed":
                    skipped = isinstance(report.longrepr, tuple)
                    text = report.longrepr[2] if skipped else str(report.longrepr)
                    lines = text.strip().splitlines()
                    reason = [line[2:].strip() for line in lines if line.startswith("E ")] or lines
                    terminalreporter.write_line(f"      {reason[0][:200]}")
