"""What a container does as requests, pictures, clients and hours grow; SMALL, the image's own model.

The points of an axis are asked in turn, round after round, so that a cliff is the container's and
not this machine's.
"""

import argparse
import base64
import datetime
import io
import json
import statistics
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

from PIL import Image

from benchmarks import contestants, report, workloads
from benchmarks.container import Container
from benchmarks.load import Load, NoWrk, press
from benchmarks.workloads import BUILD

INSTANCES = tuple(1 << power for power in range(9))
CLIENTS = tuple(1 << power for power in range(10))
SIZES = (
    (28, 28),
    (64, 64),
    (160, 120),
    (320, 240),
    (640, 480),
    (1280, 960),
    (2560, 1920),
    (4000, 3000),
    (6000, 4000),
)
"""Pixels: a digit as it is, to a camera's 24 megapixels."""
STEADY_CLIENTS, PAUSE_MS = 4, 40
"""Some hundred requests a second at most: a load, not a flood."""
MEMORY = """
import pathlib
print(sum(int(line.split()[1]) for file in pathlib.Path("/proc").glob("[0-9]*/smaps_rollup")
          for line in file.read_text().splitlines() if line.startswith("Pss:")))
"""
Row = dict[str, Any]


def main() -> None:
    """Run the command line."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.growth", description=__doc__)
    parser.add_argument("image")
    parser.add_argument("--docker", default="docker", help="(%(default)s)")
    parser.add_argument("--axes", default="instances,pixels,clients,minutes", help="(%(default)s)")
    parser.add_argument("--minutes", type=int, default=5, help="at steady load (%(default)s)")
    parser.add_argument("--rounds", type=int, default=3, help="turns of each (%(default)s)")
    parser.add_argument("--seconds", type=float, default=3, help="of a turn (%(default)s)")
    args = parser.parse_args()
    measures: dict[str, Callable[[Container, argparse.Namespace], list[Row]]] = {
        "instances": _instances,
        "pixels": _pixels,
        "clients": _clients,
        "minutes": _minutes,
    }
    chosen = args.axes.split(",")
    if unknown := set(chosen) - set(measures):
        parser.error(
            f"--axes: {', '.join(sorted(unknown))}: expected some of {', '.join(measures)}"
        )
    container = Container(args.docker, args.image)
    try:
        container.wait_until_healthy()
        rows = [each for axis in chosen for each in measures[axis](container, args)]
    except NoWrk as error:
        sys.exit(f"benchmarks: {error}")
    finally:
        container.remove()
    ended = datetime.datetime.now(datetime.UTC)
    file = BUILD / f"growth-{ended:%Y%m%d-%H%M%S}.json"
    document = {
        "ended": ended.isoformat(timespec="seconds"),
        "machine": report.machine(),
        "rows": rows,
    }
    file.write_text(json.dumps(document, indent=2) + "\n")
    print(file, flush=True)
    if contestants.PEERS.exists():
        plots = [str(contestants.PEERS), "-m", "benchmarks.growth_plots", str(file)]
        subprocess.run(plots, check=True, timeout=120)


def _instances(container: Container, args: argparse.Namespace) -> list[Row]:
    workload = workloads.small()
    bodies = {count: workload.body(count) for count in INSTANCES}
    rows = _in_turn(container, args, "instances", bodies, dict.fromkeys(bodies, 1))
    for each in rows:
        _say(f"{each['value']:>4} instances: {each['p50_ms'] / each['value']:.3f} ms each")
    return rows


def _pixels(container: Container, args: argparse.Namespace) -> list[Row]:
    bodies = {width * height: picture(width, height) for width, height in SIZES}
    rows = _in_turn(container, args, "pixels", bodies, dict.fromkeys(bodies, 1))
    for each in rows:
        _say(f"{each['value']:>9} pixels: {each['p50_ms']:.2f} ms")
    return rows


def _clients(container: Container, args: argparse.Namespace) -> list[Row]:
    body = workloads.small().body(1)
    rows = _in_turn(
        container,
        args,
        "clients",
        dict.fromkeys(CLIENTS, body),
        {count: count for count in CLIENTS},
    )
    for each in rows:
        _say(
            f"{each['value']:>4} clients: {each['answered_s']:.0f} answered, "
            f"{each['refused_s']:.0f} refused a second, p99 {each['p99_ms']:.1f} ms"
        )
    return rows


def _in_turn(
    container: Container,
    args: argparse.Namespace,
    axis: str,
    bodies: dict[int, Path],
    clients: dict[int, int],
) -> list[Row]:
    url = container.url
    loads: dict[int, list[Load]] = {value: [] for value in bodies}
    for value, body in bodies.items():
        press(url, body, clients[value], 1)
    for _ in range(args.rounds):
        for value, body in bodies.items():
            loads[value].append(press(url, body, clients[value], args.seconds))
    return [
        row(axis, value, Load(*map(statistics.median, zip(*each, strict=True))), args.seconds)
        for value, each in loads.items()
    ]


def _minutes(container: Container, args: argparse.Namespace) -> list[Row]:
    body, rows = workloads.small().body(1), []
    for minute in range(1, args.minutes + 1):
        load = press(container.url, body, STEADY_CLIENTS, 60, PAUSE_MS)
        memory = int(container.run("exec", container.name, "/opt/venv/bin/python", "-c", MEMORY))
        rows.append(row("minutes", minute, load, 60) | {"memory_mb": round(memory / 1000, 1)})
        _say(
            f"minute {minute}: {load.requests_s:.0f}/s, p99 {load.p99_ms:.1f} ms, "
            f"{rows[-1]['memory_mb']:.0f} MB"
        )
    return rows


def row(axis: str, value: int, load: Load, seconds: float) -> Row:
    """Return a point of an axis; of what was counted in `seconds`, refusals are no answers."""
    refused = load.failed / seconds
    return {
        "axis": axis,
        "value": value,
        "answered_s": round(load.requests_s - refused, 2),
        "refused_s": round(refused, 2),
        "p50_ms": round(load.p50_ms, 3),
        "p99_ms": round(load.p99_ms, 3),
    }


def picture(width: int, height: int) -> Path:
    """Write a request with one JPEG of this size: a photograph, cut to the shape and scaled."""
    source = Image.open(io.BytesIO(workloads.photographs()[0]))
    output = io.BytesIO()
    source.resize((width, height), Image.Resampling.BICUBIC).save(output, "JPEG", quality=85)
    file = BUILD / f"picture-{width}x{height}.json"
    instance = {"b64": base64.b64encode(output.getvalue()).decode()}
    file.write_text(json.dumps({"instances": [instance]}))
    return file


def _say(line: str) -> None:
    print(line, flush=True)


if __name__ == "__main__":
    main()
