"""A real Prometheus that scrapes one target: https://prometheus.io, Debian's package prometheus."""

import contextlib
import json
import subprocess
from collections.abc import Iterator
from pathlib import Path
from typing import Any, NamedTuple

import requests

from serving.torchserve import find_free_port, wait_or_kill
from tests.http import wait_for
from tests.images import ROOT


class Prometheus(NamedTuple):
    """One that runs."""

    url: str

    def get(self, path: str, **query: str | float) -> Any:
        """Return the data of an answer of its HTTP API."""
        answer = requests.get(f"{self.url}/api/v1/{path}", params=query, timeout=10)
        assert answer.ok, f"{query}: {answer.text}"
        return answer.json()["data"]

    def query_range(
        self, expression: str, began: float, ended: float, step_s: float
    ) -> list[float]:
        """Return an expression's values over a time, of all its series."""
        found = self.get("query_range", query=expression, start=began, end=ended, step=step_s)
        return [float(value) for each in found["result"] for _, value in each["values"]]


@contextlib.contextmanager
def run_prometheus(target: str, folder: Path) -> Iterator[Prometheus]:
    """Run one in a folder of its own, which scrapes HOST:PORT each second."""
    config = {
        "global": {"scrape_interval": "1s", "evaluation_interval": "1s"},
        "rule_files": [str(ROOT / "deploy" / "monitoring" / "rules.yaml")],
        "scrape_configs": [{"job_name": "serving", "static_configs": [{"targets": [target]}]}],
    }
    (folder / "prometheus.yml").write_text(json.dumps(config))  # JSON is YAML
    port = find_free_port()
    words = [
        "prometheus",
        f"--config.file={folder / 'prometheus.yml'}",
        f"--web.listen-address=127.0.0.1:{port}",
        f"--storage.tsdb.path={folder / 'data'}",
        "--storage.tsdb.retention.time=2h",
        "--log.level=error",
    ]
    with subprocess.Popen(words, stdout=subprocess.DEVNULL, text=True) as process:
        running = Prometheus(f"http://127.0.0.1:{port}")

        def is_up() -> bool:
            assert process.poll() is None, "Prometheus ended"
            with contextlib.suppress(requests.ConnectionError, AssertionError):
                found = running.get("query", query="up")["result"]
                return bool(found) and found[0]["value"][1] == "1"
            return False

        try:
            wait_for(is_up, 30, "an answer of the target")
            yield running
        finally:
            process.terminate()
            wait_or_kill(process, 10)
