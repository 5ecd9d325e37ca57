"""Measure how an image scales along five axes.

instances: instances per request. pixels: pixels per JPEG. clients: clients with one request at a time.
overload: requests at a rate above the maximum throughput. minutes: a steady rate over time.

The points of an axis are measured in turn, round after round, so that other load on the machine
affects all of them equally.
"""

import argparse
import json
import sys
import time
from pathlib import Path
from typing import Any, NamedTuple

from benchmarks import image, workloads
from benchmarks.errors import BenchmarkError
from benchmarks.image import Server
from benchmarks.load import LoadResult, median, run_wrk
from benchmarks.options import positive_float, positive_int
from benchmarks.results import write_json
from benchmarks.workloads import BUILD
from contract.docker import DockerError

AXES = ("instances", "pixels", "clients", "overload", "minutes")
INSTANCES = tuple(1 << power for power in range(9))
CLIENTS = tuple(1 << power for power in range(10))
WIDTHS = (28, 64, 160, 320, 640, 1280, 2560, 4000, 6000)
"""Widths of 4:3 pictures in pixels: from a digit to a camera's 27 megapixels."""
PEAK_CLIENTS, OVERLOAD_INSTANCES, OVERLOAD_FACTORS = 32, 16, (0.5, 1.5, 2, 4)
"""The peak is the throughput with PEAK_CLIENTS; the overload axis offers multiples of it."""
OVERLOAD_DURATION_FACTOR = 3
"""Runs under overload are longer: a request in a full queue takes a second or more."""
MAX_WAIT_S, MAX_CLIENTS = 3, 2000
"""There are enough clients that requests can wait MAX_WAIT_S without delaying later ones."""
STEADY_CLIENTS, STEADY_RATE_PER_S = 32, 90
Row = dict[str, Any]


class Point(NamedTuple):
    """One point of an axis."""

    value: float
    body: Path
    clients: int = 1
    rate_per_s: float = 0
    """Requests per second; 0: each client sends its next request after each response."""


def main() -> None:
    """Parse the options, measure, print the rows and write them to build/bench."""
    parser = argparse.ArgumentParser(
        prog="python -m benchmarks.scaling",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    add = parser.add_argument
    add("image", help="the image to measure")
    add("--docker", default="docker", help="the Docker client (default: %(default)s)")
    add("--axes", default=",".join(AXES), help="separated by commas (default: %(default)s)")
    add(
        "--minutes", type=positive_int, default=5, help="length of that axis (default: %(default)s)"
    )
    add("--rounds", type=positive_int, default=3, help="runs per point (default: %(default)s)")
    add("--seconds", type=positive_float, default=3, help="time of a run (default: %(default)s)")
    args = parser.parse_args()
    if unknown := set(args.axes.split(",")) - set(AXES):
        parser.error(f"--axes: unknown: {', '.join(sorted(unknown))}; expected {', '.join(AXES)}")
    BUILD.mkdir(parents=True, exist_ok=True)
    try:
        with image.running(args.docker, args.image) as server:
            axes = args.axes.split(",")
            rows = [row for axis in axes for row in _measure_axis(axis, server, args)]
    except (BenchmarkError, DockerError) as error:
        sys.exit(f"benchmarks.scaling: {error}")
    print(write_json("scaling", {"rows": rows}, BUILD))


def _measure_axis(axis: str, server: Server, args: argparse.Namespace) -> list[Row]:
    small = workloads.load_digits_workload()
    match axis:
        case "instances":
            points = [Point(count, small.write_body(count)) for count in INSTANCES]
        case "pixels":
            points = [Point(w * w * 3 // 4, write_picture(w, w * 3 // 4)) for w in WIDTHS]
        case "clients":
            points = [Point(count, small.write_body(1), count) for count in CLIENTS]
        case "overload":
            body = small.write_body(OVERLOAD_INSTANCES)
            seconds = OVERLOAD_DURATION_FACTOR * args.seconds
            args = argparse.Namespace(rounds=args.rounds, seconds=seconds)
            (peak,) = _measure(server, "peak", [Point(1, body, PEAK_CLIENTS)], args)
            if not peak["answered_per_s"]:
                raise BenchmarkError(f"no request succeeded in {seconds:g} s: increase --seconds")
            points = overload_points(peak["answered_per_s"], body)
            return [peak, *_measure(server, axis, points, args)]
        case _:
            return _measure_minutes(server, small.write_body(1), args.minutes)
    return _measure(server, axis, points, args)


def overload_points(peak_per_s: float, body: Path) -> list[Point]:
    """Return points that offer OVERLOAD_FACTORS times the peak; MAX_WAIT_S sets their clients."""
    rates = [factor * peak_per_s for factor in OVERLOAD_FACTORS]
    clients = [min(round(rate * MAX_WAIT_S) + 1, MAX_CLIENTS) for rate in rates]
    return [
        Point(factor, body, count, rate)
        for factor, count, rate in zip(OVERLOAD_FACTORS, clients, rates, strict=True)
    ]


def _measure_minutes(server: Server, body: Path, minutes: int) -> list[Row]:
    rows = []
    for minute in range(1, minutes + 1):
        result = run_wrk(server.url, body, STEADY_CLIENTS, 60, STEADY_RATE_PER_S)
        memory_mb = round(server.memory_mb(), 1)
        rows.append(build_row("minutes", minute, result) | {"memory_mb": memory_mb})
        _print(rows[-1])
    return rows


def _measure(server: Server, axis: str, points: list[Point], args: argparse.Namespace) -> list[Row]:
    results: dict[Point, list[LoadResult]] = {point: [] for point in points}
    for number in range(args.rounds + 1):
        for point in points:
            _, body, clients, rate_per_s = point
            _wait_until_idle(server, body)
            seconds = args.seconds if number else 1
            result = run_wrk(server.url, body, clients, seconds, rate_per_s)
            if number:  # the first round is the warm-up
                results[point].append(result)
    rows = []
    for point, rounds in results.items():
        rows.append(build_row(axis, point.value, median(rounds)))
        _print(rows[-1])
    return rows


def _wait_until_idle(server: Server, body: Path) -> None:
    """Return when a request is accepted, which is after the queued requests of earlier clients."""
    while image.Client(server.host, 60).send(image.PREDICT, body.read_bytes()) == 429:
        time.sleep(0.1)


def build_row(axis: str, value: float, result: LoadResult) -> Row:
    """Return the row of a point; rejected requests (429) do not count as answered."""
    return {
        "axis": axis,
        "value": value,
        "offered_per_s": round(result.requests_per_s, 2),
        "answered_per_s": round(result.requests_per_s - result.failed / result.duration_s, 2),
        "refused_per_s": round(result.refused / result.duration_s, 2),
        "failed_per_s": round((result.failed - result.refused) / result.duration_s, 2),
        "p50_ms": round(result.p50_ms, 3),
        "p99_ms": round(result.p99_ms, 3),
    }


def _print(row: Row) -> None:
    values = [f"{name} {value:g}" for name, value in list(row.items())[2:]]
    print(f"{row['axis']} {row['value']:g}: {', '.join(values)}", flush=True)


def write_picture(width: int, height: int) -> Path:
    """Write a request with one JPEG of this size, and return its file."""
    file = BUILD / f"picture-{width}x{height}.json"
    instance = workloads.load_photograph(workloads.PHOTOGRAPHS[0], (width, height))
    file.write_text(json.dumps({"instances": [instance]}))
    return file


if __name__ == "__main__":
    main()
