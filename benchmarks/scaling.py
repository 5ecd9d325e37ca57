"""Measure the image as instances, picture size, clients, the rate of requests and time grow.

The points of an axis are measured in turn, round after round, so that what else the machine does
affects all of them alike. Axes: instances in a request; pixels of a JPEG; clients that each wait
for their answer; overload, requests at a rate above what can be answered; minutes at a steady rate.
"""

import argparse
import base64
import datetime
import io
import json
import statistics
import sys
from pathlib import Path
from typing import Any, NamedTuple

from PIL import Image

from benchmarks import image, workloads
from benchmarks.image import Server
from benchmarks.load import Load, WrkMissingError, press
from benchmarks.results import machine
from benchmarks.workloads import BUILD
from contract.docker import DockerError

AXES = ("instances", "pixels", "clients", "overload", "minutes")
INSTANCES = tuple(1 << power for power in range(9))
CLIENTS = tuple(1 << power for power in range(10))
WIDTHS = (28, 64, 160, 320, 640, 1280, 2560, 4000, 6000)
"""Of pictures of 4:3, in pixels: from a digit to a camera's 27 megapixels."""
PEAK_CLIENTS, OVERLOAD_INSTANCES, RATES = 32, 16, (0.5, 1.5, 2, 4)
"""The overload axis offers RATES times what PEAK_CLIENTS get answered."""
MAX_CLIENTS = 2000
"""Connections of wrk's for a rate."""
STEADY_CLIENTS, STEADY_PAUSE_S = 4, 0.04
Row = dict[str, Any]


class Point(NamedTuple):
    """One point of an axis: a request, the clients that send it, and their mean pause before it."""

    value: float
    body: Path
    clients: int = 1
    pause_s: float = 0


def main() -> None:
    """Parse the command line, measure, print the rows and write them to build/bench."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.scaling", description=__doc__)
    parser.add_argument("image")
    parser.add_argument("--docker", default="docker", help="(%(default)s)")
    parser.add_argument("--axes", default=",".join(AXES), help="(%(default)s)")
    parser.add_argument("--minutes", type=int, default=5, help="at a steady rate (%(default)s)")
    parser.add_argument("--rounds", type=int, default=3, help="runs of each point (%(default)s)")
    parser.add_argument("--seconds", type=float, default=3, help="of a run (%(default)s)")
    args = parser.parse_args()
    if unknown := set(args.axes.split(",")) - set(AXES):
        parser.error(f"--axes: {', '.join(sorted(unknown))}: expected some of {', '.join(AXES)}")
    BUILD.mkdir(parents=True, exist_ok=True)
    try:
        with image.running(args.docker, args.image) as server:
            rows = [row for axis in args.axes.split(",") for row in _rows(axis, server, args)]
    except (WrkMissingError, DockerError) as error:
        sys.exit(f"benchmarks.scaling: {error}")
    ended = datetime.datetime.now(datetime.UTC)
    file = BUILD / f"scaling-{ended:%Y%m%d-%H%M%S}.json"
    document = {"ended": ended.isoformat(timespec="seconds"), "machine": machine(), "rows": rows}
    file.write_text(json.dumps(document, indent=2) + "\n")
    print(file)


def _rows(axis: str, server: Server, args: argparse.Namespace) -> list[Row]:
    small = workloads.small()
    match axis:
        case "instances":
            points = [Point(count, small.body(count)) for count in INSTANCES]
        case "pixels":
            bodies = {width * width * 3 // 4: picture(width, width * 3 // 4) for width in WIDTHS}
            points = [Point(pixels, body) for pixels, body in bodies.items()]
        case "clients":
            points = [Point(count, small.body(1), count) for count in CLIENTS]
        case "overload":
            body = small.body(OVERLOAD_INSTANCES)
            (peak,) = _measure(server, "peak", [Point(1, body, PEAK_CLIENTS)], args)
            return [peak, *_measure(server, axis, overload(peak["answered_s"], body), args)]
        case _:
            return _minutes(server, small.body(1), args.minutes)
    return _measure(server, axis, points, args)


def overload(peak_s: float, body: Path) -> list[Point]:
    """Return points that offer RATES times the peak, by clients that pause for a second or less."""
    points = []
    for times in RATES:
        clients = min(max(round(times * peak_s), 1), MAX_CLIENTS)
        points.append(Point(times, body, clients, clients / (times * peak_s)))
    return points


def _minutes(server: Server, body: Path, minutes: int) -> list[Row]:
    rows = []
    for minute in range(1, minutes + 1):
        load = press(server.url, body, STEADY_CLIENTS, 60, STEADY_PAUSE_S)
        rows.append(row("minutes", minute, load, 60) | {"memory_mb": round(server.memory_mb(), 1)})
        _print(rows[-1])
    return rows


def _measure(server: Server, axis: str, points: list[Point], args: argparse.Namespace) -> list[Row]:
    loads: dict[Point, list[Load]] = {point: [] for point in points}
    for turn in range(args.rounds + 1):
        for point in points:
            _, body, clients, pause_s = point
            load = press(server.url, body, clients, args.seconds if turn else 1, pause_s)
            if turn:  # the first warms up
                loads[point].append(load)
    rows = []
    for point, each in loads.items():
        median = Load(*map(statistics.median, zip(*each, strict=True)))
        rows.append(row(axis, point.value, median, args.seconds))
        _print(rows[-1])
    return rows


def row(axis: str, value: float, load: Load, seconds: float) -> Row:
    """Return the row of a point that was measured for `seconds`; a refusal is not an answer."""
    return {
        "axis": axis,
        "value": value,
        "offered_s": round(load.requests_s, 2),
        "answered_s": round(load.requests_s - load.failed / seconds, 2),
        "refused_s": round(load.refused / seconds, 2),
        "failed_s": round((load.failed - load.refused) / seconds, 2),
        "p50_ms": round(load.p50_ms, 3),
        "p99_ms": round(load.p99_ms, 3),
    }


def _print(row: Row) -> None:
    figures = [f"{name} {value:g}" for name, value in list(row.items())[2:]]
    print(f"{row['axis']} {row['value']:g}: {', '.join(figures)}", flush=True)


def picture(width: int, height: int) -> Path:
    """Write a request with one JPEG of this size, a scaled photograph; return its file."""
    source = Image.open(io.BytesIO(workloads.photographs()[0]))
    output = io.BytesIO()
    source.resize((width, height), Image.Resampling.BICUBIC).save(output, "JPEG", quality=85)
    file = BUILD / f"picture-{width}x{height}.json"
    instance = {"b64": base64.b64encode(output.getvalue()).decode()}
    file.write_text(json.dumps({"instances": [instance]}))
    return file


if __name__ == "__main__":
    main()
