"""Draw monitoring/grafana.json's panels out of a real Prometheus that watches IMAGE under load.

A minute and a half: one client, eight, a crowd with several instances each, bad requests, more
than there is room for, and a worker that is killed.
"""

import argparse
import json
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

from benchmarks import contestants, prometheus, report, workloads
from benchmarks.container import Container
from benchmarks.load import NoWrk, press
from benchmarks.workloads import BUILD

METRICS = 9464
STEP_S = 2
WINDOW = "8s"
"""What a rate is taken over: an hour's dashboard takes minutes."""
KILL = """
import os, pathlib
for entry in pathlib.Path("/proc").glob("[0-9]*"):
    if b"model_service_worker" in (entry / "cmdline").read_bytes():
        os.kill(int(entry.name), 9)
        break
"""


def main() -> None:
    """Run the command line."""
    parser = argparse.ArgumentParser(
        prog="python -m benchmarks.dashboard",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("image")
    parser.add_argument("--docker", default="docker", help="(%(default)s)")
    parser.add_argument(
        "--to", type=Path, default="docs/dashboard.png", help="the picture (%(default)s)"
    )
    args = parser.parse_args()
    BUILD.mkdir(parents=True, exist_ok=True)
    container = Container(
        args.docker, args.image, "--memory", "2g", "--env", f"METRICS_PORT={METRICS}"
    )
    try:
        container.wait_until_healthy()
        with (
            tempfile.TemporaryDirectory() as folder,
            prometheus.asking(f"{container.address()}:{METRICS}", Path(folder)) as running,
        ):
            began = time.time()
            _load(container)
            drawn = _drawn(running, began, time.time())
    except (NoWrk, prometheus.Failed) as error:
        sys.exit(f"benchmarks.dashboard: {error}")
    except FileNotFoundError as error:
        sys.exit(f"benchmarks.dashboard: {error}: apt-get install prometheus")
    finally:
        container.remove()
    file = BUILD / "dashboard.json"
    file.write_text(json.dumps({"machine": report.machine(), "panels": drawn}))
    plot = [str(contestants.PEERS), "-m", "benchmarks.dashboard_plot", str(file), str(args.to)]
    subprocess.run(plot, check=True, timeout=120)


def _load(container: Container) -> None:
    small = workloads.small()
    bad = BUILD / "bad.json"
    bad.write_text('{"instances": [{"b64": "!!"}]}')
    for what, body, clients, seconds in (
        ("one client", small.body(1), 1, 14),
        ("eight clients", small.body(1), 8, 14),
        ("32 clients, 4 instances each", small.body(4), 32, 14),
        ("bad requests", bad, 2, 8),
        ("more than there is room for", small.body(16), 300, 10),
    ):
        print(what, flush=True)
        # A crowd that is turned away asks again at once; it is to leave the others some room.
        press(container.url, body, clients, seconds, pause_ms=50 if clients > 100 else 0)
    print("a worker is killed", flush=True)
    container.python(KILL)
    press(container.url, small.body(1), 8, 16)


def _drawn(running: prometheus.Prometheus, began: float, ended: float) -> list[dict[str, Any]]:
    document = json.loads(Path("monitoring/grafana.json").read_text())
    panels = []
    for panel in document["panels"]:
        lines = [
            {
                "name": _legend(target["legendFormat"], series.labels),
                "points": [(at - began, value) for at, value in series.points],
            }
            for target in panel["targets"]
            for series in running.range(
                target["expr"].replace("$__rate_interval", WINDOW), began, ended, STEP_S
            )
        ]
        unit = panel["fieldConfig"]["defaults"]["unit"]
        panels.append({"title": panel["title"], "unit": unit, "lines": lines})
    return panels


def _legend(template: str, labels: dict[str, str]) -> str:
    for name, value in labels.items():
        template = template.replace(f"{{{{{name}}}}}", value)
    return template


if __name__ == "__main__":
    main()
