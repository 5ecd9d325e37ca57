"""Measure how an image scales along six axes.

instances: instances per request. pixels: pixels per JPEG. clients: clients with one request at a time.
overload: requests at a rate above the maximum throughput. minutes: a steady rate over time.
telemetry: a container with METRICS_PORT compared with one without.

The points of an axis are measured in turn, round after round, so that other load on the machine
affects all of them equally.
"""

import argparse
import base64
import io
import statistics
import sys
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple

from PIL import Image

from benchmarks import image, workloads
from benchmarks.errors import BenchmarkError
from benchmarks.image import Server
from benchmarks.load import WARM_UP_S, LoadResult, median, run_wrk, wait_until_idle, warm_up
from benchmarks.options import positive_float, positive_int
from benchmarks.results import write_json
from benchmarks.workloads import BUILD, Workload
from contract.docker import DockerError
from project.model_folder import add_model_option

AXES = ("instances", "pixels", "clients", "overload", "minutes", "telemetry")
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
STEADY_RATE_PER_S, STEADY_PART_OF_PEAK = 90, 0.5
"""The rate of the minutes axis, of which slow models get a part of their peak."""
TELEMETRY_CLIENTS = (1, 8, 32)
Row = dict[str, Any]


class Point(NamedTuple):
    """One point of an axis."""

    value: float
    bodies: Path
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
    add_model_option(parser)
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
    try:
        workload = workloads.select_workload(args.model)
        with image.running(args.docker, args.image) as server:
            axes = args.axes.split(",")
            rows = [row for axis in axes for row in _measure_axis(axis, workload, server, args)]
    except (BenchmarkError, DockerError) as error:
        sys.exit(f"benchmarks.scaling: {error}")
    print(write_json("scaling", {"rows": rows}, BUILD))


def _measure_axis(
    axis: str, workload: Workload, server: Server, args: argparse.Namespace
) -> list[Row]:
    match axis:
        case "instances":
            points = [Point(count, workload.write_bodies(count)) for count in INSTANCES]
        case "pixels":
            points = picture_points(workload)
            if not points:
                print(f"pixels: left out: the instances of {workload.name} are not pictures as b64")
        case "clients":
            points = [Point(count, workload.write_bodies(1), count) for count in CLIENTS]
        case "overload":
            bodies = workload.write_bodies(OVERLOAD_INSTANCES)
            peak = _measure_peak(server, bodies, args)
            points = overload_points(peak["answered_per_s"], bodies)
            seconds = OVERLOAD_DURATION_FACTOR * args.seconds
            args = argparse.Namespace(rounds=args.rounds, seconds=seconds)
            return [peak, *_measure(server, axis, points, args)]
        case "telemetry":
            with image.running(args.docker, args.image, "--env=METRICS_PORT=9464") as with_metrics:
                return _measure_telemetry(server, with_metrics, workload.write_bodies(1), args)
        case _:
            return _measure_minutes(server, workload.write_bodies(1), args)
    return _measure(server, axis, points, args)


def _measure_peak(server: Server, bodies: Path, args: argparse.Namespace) -> Row:
    (peak,) = _measure(server, "peak", [Point(1, bodies, PEAK_CLIENTS)], args)
    if not peak["answered_per_s"]:
        raise BenchmarkError(f"{PEAK_CLIENTS} clients got no answer: increase --seconds")
    return peak


def overload_points(peak_per_s: float, bodies: Path) -> list[Point]:
    """Return points that offer OVERLOAD_FACTORS times the peak; MAX_WAIT_S sets their clients."""
    rates = [factor * peak_per_s for factor in OVERLOAD_FACTORS]
    clients = [min(round(rate * MAX_WAIT_S) + 1, MAX_CLIENTS) for rate in rates]
    return [
        Point(factor, bodies, count, rate)
        for factor, count, rate in zip(OVERLOAD_FACTORS, clients, rates, strict=True)
    ]


def _measure_minutes(server: Server, bodies: Path, args: argparse.Namespace) -> list[Row]:
    peak_per_s = _measure_peak(server, bodies, args)["answered_per_s"]
    rate_per_s = min(STEADY_RATE_PER_S, STEADY_PART_OF_PEAK * peak_per_s)
    rows = []
    for minute in range(1, args.minutes + 1):
        result = run_wrk(server.url, bodies, PEAK_CLIENTS, 60, rate_per_s)
        memory_mb = round(server.memory_mb(), 1)
        rows.append(build_row("minutes", minute, result) | {"memory_mb": memory_mb})
        _print(rows[-1])
    return rows


def _measure_telemetry(
    without: Server, with_metrics: Server, bodies: Path, args: argparse.Namespace
) -> list[Row]:
    rows = []
    for clients in TELEMETRY_CLIENTS:
        rates, cpu_ms = [], []
        for number in range(args.rounds + 1):
            for server in (without, with_metrics):
                before_s = server.cpu_s()
                result = run_wrk(server.url, bodies, clients, args.seconds if number else WARM_UP_S)
                if number:
                    rates.append(result.answered_per_s)
                    used_s = server.cpu_s() - before_s
                    cpu_ms.append(used_s / (result.requests_per_s * result.duration_s) * 1000)
        ratios = [on / off for off, on in zip(rates[::2], rates[1::2], strict=True)]
        row: Row = {
            "axis": "telemetry",
            "value": clients,
            "on_by_off": round(statistics.median(ratios), 3),
            "off_per_s": round(statistics.median(rates[::2]), 2),
            "on_per_s": round(statistics.median(rates[1::2]), 2),
            "off_cpu_ms": round(statistics.median(cpu_ms[::2]), 3),
            "on_cpu_ms": round(statistics.median(cpu_ms[1::2]), 3),
        }
        rows.append(row)
        _print(row)
    return rows


def _measure(server: Server, axis: str, points: list[Point], args: argparse.Namespace) -> list[Row]:
    results: dict[Point, list[LoadResult]] = {point: [] for point in points}
    round_s: dict[Point, float] = {}

    def run(point: Point, seconds: float) -> LoadResult:
        wait_until_idle(server.url, point.bodies)
        return run_wrk(server.url, point.bodies, point.clients, seconds, point.rate_per_s)

    for point in points:
        # With a rate there are many more clients than requests in flight.
        clients = 0 if point.rate_per_s else point.clients
        _, round_s[point] = warm_up(partial(run, point), clients, args.seconds)
    for _ in range(args.rounds):
        for point in points:
            results[point].append(run(point, round_s[point]))
    rows = []
    for point, rounds in results.items():
        rows.append(build_row(axis, point.value, median(rounds)))
        _print(rows[-1])
    return rows


def build_row(axis: str, value: float, result: LoadResult) -> Row:
    """Return the row of a point; rejected requests (429) do not count as answered."""
    return {
        "axis": axis,
        "value": value,
        "offered_per_s": round(result.requests_per_s, 2),
        "answered_per_s": round(result.answered_per_s, 2),
        "refused_per_s": round(result.refused / result.duration_s, 2),
        "failed_per_s": round((result.failed - result.refused) / result.duration_s, 2),
        "p50_ms": round(result.p50_ms, 3),
        "p99_ms": round(result.p99_ms, 3),
    }


def _print(row: Row) -> None:
    values = [f"{name} {value:g}" for name, value in list(row.items())[2:]]
    print(f"{row['axis']} {row['value']:g}: {', '.join(values)}", flush=True)


def picture_points(workload: Workload) -> list[Point]:
    """Return points whose pictures have WIDTHS; none if an instance is not {"b64": a picture}."""
    row = workload.requests[0]
    try:
        Image.open(io.BytesIO(base64.b64decode(row["instance"]["b64"]))).close()
    except (TypeError, KeyError, ValueError, OSError):
        return []
    points = []
    for width, height in ((width, width * 3 // 4) for width in WIDTHS):
        picture = workloads.load_photograph(workloads.PHOTOGRAPHS[0], (width, height))
        body = {"instances": [row["instance"] | picture], "parameters": row.get("parameters") or {}}
        file = workload.scratch / f"{width}x{height}.jsonl"
        points.append(Point(width * height, workloads.write_bodies(file, [body])))
    return points


if __name__ == "__main__":
    main()
