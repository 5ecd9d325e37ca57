"""A real Prometheus that asks one target: https://prometheus.io, Debian's package prometheus."""

import contextlib
import json
import subprocess
import time
import urllib.error
import urllib.parse
import urllib.request
from collections.abc import Iterator
from pathlib import Path
from typing import Any, NamedTuple

from serving.torchserve import free_port

START_S = 30


class Failed(Exception):
    """Prometheus does not start, or refuses a query."""


class Series(NamedTuple):
    """One line of an answer."""

    labels: dict[str, str]
    points: list[tuple[float, float]]
    """Seconds since 1970, and values."""


class Prometheus(NamedTuple):
    """One that runs."""

    url: str

    def ask(self, path: str, **query: object) -> Any:
        """Return the data of an answer of its HTTP API; raise Failed."""
        url = f"{self.url}/api/v1/{path}?{urllib.parse.urlencode(query)}"
        try:
            with urllib.request.urlopen(url, timeout=10) as answer:
                return json.load(answer)["data"]
        except urllib.error.HTTPError as error:
            raise Failed(f"{query}: {error.read().decode()}") from error
        except OSError as error:
            raise Failed(f"{url}: {error}") from error

    def value(self, expression: str) -> float | None:
        """Return the one value of an expression, None where there is none; raise Failed."""
        found = self.ask("query", query=expression)["result"]
        return float(found[0]["value"][1]) if found else None

    def range(self, expression: str, began: float, ended: float, step_s: float) -> list[Series]:
        """Return an expression's values over a time; raise Failed."""
        found = self.ask("query_range", query=expression, start=began, end=ended, step=step_s)
        return [
            Series(each["metric"], [(at, float(value)) for at, value in each["values"]])
            for each in found["result"]
        ]


@contextlib.contextmanager
def asking(target: str, folder: Path, interval_s: int = 1) -> Iterator[Prometheus]:
    """Run one in a folder of its own, which asks HOST:PORT; raise Failed."""
    port, rules = free_port(), Path("monitoring/rules.yaml").resolve()
    config = {
        "global": {"scrape_interval": f"{interval_s}s", "evaluation_interval": f"{interval_s}s"},
        "rule_files": [str(rules)],
        "scrape_configs": [{"job_name": "serving", "static_configs": [{"targets": [target]}]}],
    }
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "prometheus.yml").write_text(json.dumps(config))  # JSON is YAML
    words = [
        "prometheus",
        f"--config.file={folder / 'prometheus.yml'}",
        f"--web.listen-address=127.0.0.1:{port}",
        f"--storage.tsdb.path={folder / 'data'}",
        "--storage.tsdb.retention.time=2h",
        "--log.level=error",
    ]
    with subprocess.Popen(words, stdout=subprocess.DEVNULL) as process:
        running = Prometheus(f"http://127.0.0.1:{port}")
        try:
            _wait(running, process)
            yield running
        finally:
            process.terminate()
            try:
                process.wait(10)
            except subprocess.TimeoutExpired:
                process.kill()


def _wait(running: Prometheus, process: subprocess.Popen[bytes]) -> None:
    """Return once the target has been asked; raise Failed."""
    deadline = time.monotonic() + START_S
    while True:
        try:
            if running.value("up") == 1:
                return
        except Failed:
            if process.poll() is not None or time.monotonic() > deadline:
                raise
        if time.monotonic() > deadline:
            raise Failed(f"the target did not answer within {START_S} s")
        time.sleep(0.2)
