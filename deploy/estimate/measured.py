"""What was measured of a container: from the project's own files, from options, or quoted from its pages."""

import json
import math
import re
from collections.abc import Iterable
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from deploy.errors import Stop
from deploy.estimate.replica import Point, Replica

LIMIT = 192
"""Requests that the image lets in at once (docs/container.md)."""
REFUSED = 0.01
"""Of all: beyond it, what was measured is the refusing and not the answering."""


@dataclass(frozen=True)
class Measured:
    """A container on a machine with so many cores."""

    points: tuple[Point, ...]
    cores: float
    source: str
    busy: tuple[tuple[float, float], ...]
    """Share of the peak → share of the processor."""
    busy_source: str

    @property
    def peak_point(self) -> Point:
        """The most that was answered, and with how many in flight."""
        return self.points[-1]

    def replica(self, cores: float, limit: int = LIMIT) -> Replica:
        """Return it on another number of cores: as much faster, with as many more in flight."""
        times = cores / self.cores
        points = tuple(
            Point(each.in_flight * times, each.per_second * times, each.p99_ms)
            for each in self.points
        )
        return Replica(points, limit, self.busy)

    def alone(self, rate: float) -> "Measured":
        """Return it as if `rate` requests a second, one after the other, were all that it can do."""
        point = Point(1.0, rate, 1000 / rate)
        return replace(self, points=(point,), cores=1, busy=EVEN, busy_source=PROPORTION)


EVEN: tuple[tuple[float, float], ...] = ((0.0, 0.0), (1.0, 1.0))
PROPORTION = "in proportion to the requests"
QUOTED = Measured(
    (
        Point(1, 353, 7),
        Point(2, 549, 7),
        Point(4, 736, 10),
        Point(8, 987, 18),
        Point(16, 1433, 26),
        Point(32, 1768, 34),
        Point(64, 2293, 46),
        Point(128, 2743, 69),
    ),
    cores=2,
    source="the digits, benchmarks/README.md (two cores, shared with the clients)",
    busy=(
        (0, 0),
        (0.05, 0.23),
        (0.1, 0.43),
        (0.2, 0.67),
        (0.35, 0.86),
        (0.5, 0.95),
        (0.75, 1),
        (1, 1),
    ),
    busy_source="the digits, measured (docs/scale.md)",
)
"""With one client no p99 is quoted there: that of two is taken."""
QUOTED_START_S = 4.1
"""README.md: from `docker run` to the first right answer."""
QUOTED_FUNCTION_MS, QUOTED_FUNCTION_START_S = 2.6, 1.7
"""docs/functions.md, the row digits with one processor: an answer, the start."""


def given(per_second: float, p99_ms: float) -> Measured:
    """Return a container of which only two numbers are known: requests a second and core, and their p99.

    Raises:
        Stop: one of them is no number above zero.

    """
    for name, value in (("--per-second", per_second), ("--p99-ms", p99_ms)):
        if not 0 < value < math.inf:
            raise Stop(f"{name} {value:g} is not above 0", "give what was measured under full load")
    point = Point(per_second * p99_ms / 1000, per_second, p99_ms)
    return Measured(
        (point,),
        1,
        f"{per_second:,.10g}/s a core with a p99 of {p99_ms:,.10g} ms, as given",
        EVEN,
        PROPORTION,
    )


def read(files: Iterable[Path], workload: str) -> Measured:
    """Read what `make growth`, `make bench` and `make burst` wrote: build/bench/*.json.

    Of a run of `make bench` the rows of ours with one instance a request count, of one workload.

    Raises:
        Stop: there is nothing of the kind in them.

    """
    points: list[Point] = []
    busy, busy_source, cores, names = EVEN, PROPORTION, 0.0, []
    for file in files:
        document = _document(file)
        try:
            rows = document["rows"]
            points += [point for row in rows if (point := _point(row, workload))]
            loads = [row for row in rows if row.get("axis") == "rate" and "busy" in row]
            if loads:
                busy, busy_source = busy_of(loads), str(file)
            cores = _cores(document["machine"])
        except (KeyError, TypeError, ValueError, AttributeError) as error:
            raise Stop(
                f"{file} has not what a measurement has: {error!r}",
                "name a build/bench/growth-*.json or run-*.json",
            ) from None
        names.append(str(file))
    rising = climbing(points)
    if not rising:
        raise Stop(
            f"{', '.join(names)}: no row with clients and answers of {workload}",
            "make growth, or make bench, writes one; --workload names another",
        )
    return Measured(rising, cores, ", ".join(names), busy, busy_source)


def climbing(points: Iterable[Point]) -> tuple[Point, ...]:
    """Return the points up to the peak: each with more in flight, and more answers, than the one before."""
    found: list[Point] = []
    for each in sorted(points):
        if each.in_flight > 0 and (not found or each.per_second > found[-1].per_second):
            found.append(each)
    return tuple(found)


def busy_of(rows: Iterable[dict[str, Any]]) -> tuple[tuple[float, float], ...]:
    """Return share of the peak → share of the processor, of rows that tell both; never falling."""
    found = [(0.0, 0.0)]
    for row in sorted(rows, key=lambda row: float(row["of_peak"])):
        share, busy = float(row["of_peak"]), min(float(row["busy"]), 1.0)
        if found[-1][0] < share < 1:
            found.append((share, max(busy, found[-1][1])))
    return (*found, (1.0, 1.0))


def _point(row: dict[str, Any], workload: str) -> Point | None:
    """Return what a row of growth-*.json or run-*.json says of full load, if it does."""
    if row.get("axis") == "clients":
        answered, refused = float(row["answered_s"]), float(row["refused_s"])
        if refused > REFUSED * (answered + refused):
            return None
        return Point(float(row["value"]), answered, float(row["p99_ms"]))
    if row.get("contestant") == "ours" and row["instances"] == 1 and row["workload"] == workload:
        return Point(float(row["clients"]), float(row["requests_s"]), float(row["p99_ms"]))
    return None


def _document(file: Path) -> dict[str, Any]:
    try:
        found = json.loads(file.read_text())
    except (OSError, ValueError) as error:
        raise Stop(
            f"{file} cannot be read: {error}", "name a build/bench/growth-*.json or run-*.json"
        ) from None
    if not isinstance(found, dict):
        raise Stop(f"{file} holds no JSON object", "name a build/bench/growth-*.json or run-*.json")
    return found


def _cores(machine: Any) -> float:
    """Return how many cores it was measured on; raise ValueError."""
    said = machine["cpu"] if isinstance(machine, dict) else machine
    match = re.search(r"(\d+) cores$", said)
    if match is None:
        raise ValueError(f"the machine {said!r} does not end in its cores")
    return float(match[1])
