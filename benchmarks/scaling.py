"""Measure the image as instances, picture size, clients, the rate of requests and time grow.

The points of an axis are measured in turn, round after round, so that what else the machine does
affects all of them alike. Axes: instances in a request; pixels of a JPEG; clients that each wait
for their answer; overload, requests at a rate above what can be answered; minutes at a steady rate.
"""

import argparse
import json
import sys
import time
from pathlib import Path
from typing import Any, NamedTuple

from benchmarks import image, workloads
from benchmarks.image import Server
from benchmarks.load import Load, WrkMissingError, median, press
from benchmarks.results import save
from benchmarks.workloads import BUILD
from contract.docker import DockerError

AXES = ("instances", "pixels", "clients", "overload", "minutes")
INSTANCES = tuple(1 << power for power in range(9))
CLIENTS = tuple(1 << power for power in range(10))
WIDTHS = (28, 64, 160, 320, 640, 1280, 2560, 4000, 6000)
"""Of pictures of 4:3, in pixels: from a digit to a camera's 27 megapixels."""
PEAK_CLIENTS, OVERLOAD_INSTANCES, RATES = 32, 16, (0.5, 1.5, 2, 4)
"""The overload axis offers RATES times what PEAK_CLIENTS get answered."""
OVERLOAD_TIMES = 3
"""How much longer its runs are: a request that waits in a full queue takes a second or more."""
CLIENTS_S, MAX_CLIENTS = 3, 2000
"""A request in a full queue may wait for CLIENTS_S without holding back those that follow."""
STEADY_CLIENTS, STEADY_RATE_S = 32, 90
Row = dict[str, Any]


class Point(NamedTuple):
    """One point of an axis."""

    value: float
    body: Path
    clients: int = 1
    rate_s: float = 0
    """Requests a second; 0: each client sends its next request when it has its answer."""


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
    print(save("scaling", {"rows": rows}, BUILD))


def _rows(axis: str, server: Server, args: argparse.Namespace) -> list[Row]:
    small = workloads.small()
    match axis:
        case "instances":
            points = [Point(count, small.body(count)) for count in INSTANCES]
        case "pixels":
            points = [Point(w * w * 3 // 4, picture(w, w * 3 // 4)) for w in WIDTHS]
        case "clients":
            points = [Point(count, small.body(1), count) for count in CLIENTS]
        case "overload":
            body = small.body(OVERLOAD_INSTANCES)
            args = argparse.Namespace(rounds=args.rounds, seconds=OVERLOAD_TIMES * args.seconds)
            (peak,) = _measure(server, "peak", [Point(1, body, PEAK_CLIENTS)], args)
            if not peak["answered_s"]:
                sys.exit(f"no request was answered within {args.seconds:g} s: more --seconds")
            return [peak, *_measure(server, axis, overload(peak["answered_s"], body), args)]
        case _:
            return _minutes(server, small.body(1), args.minutes)
    return _measure(server, axis, points, args)


def overload(peak_s: float, body: Path) -> list[Point]:
    """Return points that offer RATES times the peak, with clients for CLIENTS_S of it."""
    return [
        Point(times, body, min(round(times * peak_s * CLIENTS_S) + 1, MAX_CLIENTS), times * peak_s)
        for times in RATES
    ]


def _minutes(server: Server, body: Path, minutes: int) -> list[Row]:
    rows = []
    for minute in range(1, minutes + 1):
        load = press(server.url, body, STEADY_CLIENTS, 60, STEADY_RATE_S)
        rows.append(row("minutes", minute, load) | {"memory_mb": round(server.memory_mb(), 1)})
        _print(rows[-1])
    return rows


def _measure(server: Server, axis: str, points: list[Point], args: argparse.Namespace) -> list[Row]:
    loads: dict[Point, list[Load]] = {point: [] for point in points}
    for turn in range(args.rounds + 1):
        for point in points:
            _, body, clients, rate_s = point
            _drain(server, body)
            load = press(server.url, body, clients, args.seconds if turn else 1, rate_s)
            if turn:  # the first warms up
                loads[point].append(load)
    rows = []
    for point, each in loads.items():
        rows.append(row(axis, point.value, median(each)))
        _print(rows[-1])
    return rows


def _drain(server: Server, body: Path) -> None:
    """Return once a request is answered, and with it those that earlier clients left behind."""
    while image.Client(server.host, 60).send(image.PREDICT, body.read_bytes()) == 429:
        time.sleep(0.1)


def row(axis: str, value: float, load: Load) -> Row:
    """Return the row of a point; a refusal is not an answer."""
    return {
        "axis": axis,
        "value": value,
        "offered_s": round(load.requests_s, 2),
        "answered_s": round(load.requests_s - load.failed / load.seconds, 2),
        "refused_s": round(load.refused / load.seconds, 2),
        "failed_s": round((load.failed - load.refused) / load.seconds, 2),
        "p50_ms": round(load.p50_ms, 3),
        "p99_ms": round(load.p99_ms, 3),
    }


def _print(row: Row) -> None:
    figures = [f"{name} {value:g}" for name, value in list(row.items())[2:]]
    print(f"{row['axis']} {row['value']:g}: {', '.join(figures)}", flush=True)


def picture(width: int, height: int) -> Path:
    """Write a request with one JPEG of this size, and return its file."""
    file = BUILD / f"picture-{width}x{height}.json"
    instance = workloads.photograph(workloads.PHOTOGRAPHS[0], (width, height))
    file.write_text(json.dumps({"instances": [instance]}))
    return file


if __name__ == "__main__":
    main()
