"""What a part of IMAGE costs: two containers of it, with the part and without, asked in turn.

telemetry: with metrics for Prometheus and traces for an endpoint, and without.
jar: with TorchServe's own jar of 2024 in place of what the image has of it.
The answers are compared too, byte by byte.
"""

import argparse
import base64
import json
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import NamedTuple
from urllib.error import HTTPError
from urllib.request import Request, urlopen

from benchmarks import report, workloads
from benchmarks.container import Container
from benchmarks.growth import MEMORY
from benchmarks.load import Load, NoWrk, press
from benchmarks.workloads import BUILD
from docker.stages import jars

METRICS = 9464
HELD_OUT = Path("build/model/held-out")


class Pair(NamedTuple):
    """Two ways to run the image."""

    names: tuple[str, str]
    options: tuple[list[str], list[str]]
    page: Path


def pair(name: str, folder: Path) -> Pair:
    """Return the pair of a name; files that a container needs go into a folder."""
    if name == "telemetry":
        on = [
            f"METRICS_PORT={METRICS}",
            "OTEL_EXPORTER_OTLP_ENDPOINT=http://127.0.0.1:4318",
            "OTEL_METRICS_EXPORTER=none",
        ]
        options = [word for variable in on for word in ("--env", variable)]
        return Pair(("off", "on"), ([], options), Path("docs/monitoring.md"))
    found = Path(sys.prefix).glob("lib/python*/site-packages/ts/frontend/model-server.jar")
    jars.whole(next(found), folder / "torchserve")
    folder.chmod(0o755)
    old = ["--volume", f"{folder / 'torchserve'}:/opt/torchserve:ro"]
    return Pair(("the jar of 2024", "the image"), (old, []), Path("docs/security.md"))


def main() -> None:
    """Run the command line."""
    parser = argparse.ArgumentParser(
        prog="python -m benchmarks.pairs",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("pair", choices=("telemetry", "jar"))
    parser.add_argument("image")
    parser.add_argument("--docker", default="docker", help="(%(default)s)")
    parser.add_argument("--rounds", type=int, default=10, help="turns of each (%(default)s)")
    parser.add_argument("--seconds", type=float, default=3, help="of a turn (%(default)s)")
    args = parser.parse_args()
    BUILD.mkdir(parents=True, exist_ok=True)
    containers: list[Container] = []
    try:
        with tempfile.TemporaryDirectory() as folder:
            chosen = pair(args.pair, Path(folder))
            for options in chosen.options:
                containers.append(Container(args.docker, args.image, "--memory", "2g", *options))
            for each in containers:
                each.wait_until_healthy()
            _compare(containers)
            table = _table(args, chosen, containers)
    except (NoWrk, subprocess.CalledProcessError) as error:
        sys.exit(f"benchmarks.pairs: {error}")
    finally:
        for each in containers:
            each.remove()
    report.replace(chosen.page, args.pair, table)
    print(table)


def _compare(containers: list[Container]) -> None:
    """End the program where one answer differs: each held-out digit, and some bad requests."""
    pictures = [base64.b64encode(file.read_bytes()).decode() for file in HELD_OUT.glob("*.png")]
    bodies = [json.dumps({"instances": [{"b64": each}]}).encode() for each in pictures]
    bodies += [b"{", b"{}", b'{"instances": []}', b'{"instances": [{"b64": "!!"}, 1]}']
    for body in bodies:
        first, second = (_answer(each.url, body) for each in containers)
        if first != second:
            sys.exit(f"benchmarks.pairs: {body[:80]!r}: {first} and {second}")
    print(f"{len(bodies)} answers are the same, byte by byte", flush=True)


def _answer(url: str, body: bytes) -> tuple[int, bytes]:
    request = Request(url, body, {"Content-Type": "application/json"})
    try:
        with urlopen(request, timeout=30) as answer:
            return answer.status, answer.read()
    except HTTPError as error:
        return error.code, error.read()


def _table(args: argparse.Namespace, chosen: Pair, containers: list[Container]) -> str:
    small = workloads.small()
    first, second = chosen.names
    lines = [
        f"| clients | {first}: requests/s, p50 | {second}: requests/s, p50 | {second} ÷ {first} |",
        "|---|---|---|---|",
    ]
    for clients in (1, 8, 32):
        found: list[list[Load]] = [[], []]
        for turn in range(args.rounds + 1):
            for which in (0, 1) if turn % 2 else (1, 0):
                load = press(containers[which].url, small.body(1), clients, args.seconds)
                time.sleep(0.5)
                if turn:  # the first warms up
                    found[which].append(load)
        ratios = [b.requests_s / a.requests_s for a, b in zip(*found, strict=True)]
        cells = [
            f"{statistics.median(x.requests_s for x in each):.0f}, "
            f"{statistics.median(x.p50_ms for x in each):.1f} ms"
            for each in found
        ]
        low, middle, high = statistics.quantiles(ratios, n=4)
        lines.append(
            f"| {clients} | {cells[0]} | {cells[1]} | {middle:.2f} ({low:.2f} to {high:.2f}) |"
        )
        print(lines[-1], flush=True)
    held = [
        int(each.run("exec", each.name, "/opt/venv/bin/python", "-c", MEMORY)) / 1000
        for each in containers
    ]
    lines.append(f"| memory after it | {held[0]:.0f} MB | {held[1]:.0f} MB | |")
    note = (
        f"Medians of {args.rounds} turns of {args.seconds:g} s, quartiles in brackets; digits; "
        f"{report.machine()}."
    )
    return "\n".join([*lines, "", note])


if __name__ == "__main__":
    main()
