"""A Prometheus server (https://prometheus.io, Debian's package prometheus) that scrapes one target."""

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
    """A running server."""

    url: str

    def get(self, path: str, **query: str | float) -> Any:
        """Return the data of a response of the HTTP API."""
        response = requests.get(f"{self.url}/api/v1/{path}", params=query, timeout=10)
        assert response.ok, f"{query}: {response.text}"
        return response.json()["data"]

    def query_range(self, expression: str, start: float, end: float, step_s: float) -> list[float]:
        """Return the values of all series of an expression between two Unix times."""
        data = self.get("query_range", query=expression, start=start, end=end, step=step_s)
        return [float(value) for series in data["result"] for _, value in series["values"]]


@contextlib.contextmanager
def run_prometheus(target: str, folder: Path) -> Iterator[Prometheus]:
    """Run a server in `folder` that scrapes `target`, HOST:PORT, every second."""
    config = {
        "global": {"scrape_interval": "1s", "evaluation_interval": "1s"},
        "rule_files": [str(ROOT / "deploy" / "monitoring" / "rules.yaml")],
        "scrape_configs": [{"job_name": "serving", "static_configs": [{"targets": [target]}]}],
    }
    (folder / "prometheus.yml").write_text(json.dumps(config))  # JSON is YAML
    port = find_free_port()
    command = [
        "prometheus",
        f"--config.file={folder / 'prometheus.yml'}",
        f"--web.listen-address=127.0.0.1:{port}",
        f"--storage.tsdb.path={folder / 'data'}",
        "--storage.tsdb.retention.time=2h",
        "--log.level=error",
    ]
    with subprocess.Popen(command, stdout=subprocess.DEVNULL, text=True) as process:
        server = Prometheus(f"http://127.0.0.1:{port}")

        def is_up() -> bool:
            assert process.poll() is None, "Prometheus exited"
            with contextlib.suppress(requests.ConnectionError, AssertionError):
                result = server.get("query", query="up")["result"]
                return bool(result) and result[0]["value"][1] == "1"
            return False

        try:
            wait_for(is_up, 30, "a scrape of the target")
            yield server
        finally:
            process.terminate()
            wait_or_kill(process, 10)
