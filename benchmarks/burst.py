"""Hold the calculator's queue (deploy/estimate) against a container: how busy it is, and a burst.

First the processor's share that steady rates take, as a part of what the peak takes. Then what clients
that each wait for their answer get, as `make growth` measures it, and a burst: requests come at half
the peak, for ten seconds at three times the peak, and at half of it again. The calculator is told
the peak, and given the same burst. The tables are of all runs that build/bench has of this machine.
"""

import argparse
import asyncio
import datetime
import json
import statistics
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any, NamedTuple

from benchmarks import report
from benchmarks.container import Container
from benchmarks.overload import Answer, Pool
from benchmarks.workloads import BUILD
from deploy.estimate.measured import LIMIT, climbing
from deploy.estimate.replica import Point, Replica
from deploy.estimate.waiting import Waiting

CLIENTS = (1, 4, 16, 32, 64, 128, 160)
SHARES = (0.05, 0.1, 0.2, 0.35, 0.5, 0.75)
"""Of the peak, at a steady rate."""
FULL = 128
"""Clients that find the peak of which the rates are shares."""
TURN_S, RATE_S = 2.0, 1.5
BURST = ((0.5, 4), (3.0, 10), (0.5, 4))
"""Times the peak, for so many seconds."""
Row = dict[str, Any]
Document = dict[str, Any]


class Part(NamedTuple):
    """A part of the burst: requests a second that were sent, answered and refused."""

    sent: float
    answered: float
    refused: float
    ms: float
    """Of an answer, the mean."""


class Processor:
    """The time that the container's processes have had of it."""

    # Of cgroup's second version, microseconds; of the first, nanoseconds.
    SECOND, FIRST = "/sys/fs/cgroup/cpu.stat", "/sys/fs/cgroup/cpuacct/cpuacct.usage"

    def __init__(self, container: Container) -> None:
        self._container, self._reads, self._each = container, 0, 0.0

    async def weigh(self) -> None:
        """Find out what reading it takes itself, in the container, to leave it out."""
        readings = [await self.seconds() for _ in range(6)]
        self._each = (readings[-1] - readings[0]) / (len(readings) - 1)

    async def seconds(self) -> float:
        """Return it, since the start."""
        self._reads += 1
        read = f"head -n1 {self.SECOND} 2>/dev/null || cat {self.FIRST}"
        said = await asyncio.to_thread(
            self._container.run, "exec", self._container.name, "sh", "-c", read
        )
        name, _, count = said.rpartition(" ")
        return int(count) / (1e6 if name else 1e9) - self._reads * self._each


class Closed(NamedTuple):
    """What clients got that each wait for their answer."""

    clients: int
    answers: int
    per_second: float
    p99_ms: float


async def closed(pool: Pool, clients: int) -> Closed:
    """Let so many clients ask, each again once it has its answer."""
    took: list[float] = []
    began = time.perf_counter()

    async def client() -> None:
        while time.perf_counter() < began + TURN_S:
            answer = await pool.ask()
            if answer.status == 200:
                took.append(answer.took)

    await asyncio.wait_for(asyncio.gather(*(client() for _ in range(clients))), 60)
    seconds = time.perf_counter() - began
    return Closed(clients, len(took), len(took) / seconds, _at(took, 0.99))


async def opened(pool: Pool, rate: float, seconds: float) -> list[asyncio.Task[Answer]]:
    """Send so many requests a second, evenly, whatever becomes of them."""
    tasks, began = [], time.perf_counter()
    for number in range(round(rate * seconds)):
        wait = began + number / rate - time.perf_counter()
        if wait > 0:
            await asyncio.sleep(wait)
        tasks.append(asyncio.create_task(pool.ask()))
    await asyncio.sleep(max(began + seconds - time.perf_counter(), 0))
    return tasks


async def busy(pool: Pool, processor: Processor, rounds: int) -> list[Row]:
    """Measure what steady rates take of the processor, as shares of the peak and of what that takes.

    What counts is the processor's time for an answer, in rounds: it varies less than all else where
    the cores are shared with others, and the clients do share them.
    """
    await closed(pool, FULL)
    peaks, times = [], {share: list[tuple[float, float]]() for share in SHARES}
    for _ in range(rounds):
        had = await processor.seconds()
        full = await closed(pool, FULL)
        peaks.append(full.per_second)
        at_peak = (await processor.seconds() - had) / full.answers
        for share, found in times.items():
            had = await processor.seconds()
            answers = await _all(await opened(pool, share * full.per_second, RATE_S))
            good = sum(each.status == 200 for each in answers)
            found.append(((await processor.seconds() - had) / good, at_peak))
    return [
        {
            "axis": "rate",
            "of_peak": share,
            "peak": round(statistics.median(peaks), 1),
            "busy": round(share * statistics.median(each / most for each, most in found), 3),
            "processor_ms": round(statistics.median(each for each, _ in found) * 1000, 3),
            "processor_ms_at_peak": round(statistics.median(most for _, most in found) * 1000, 3),
        }
        for share, found in times.items()
    ]


async def burst(pool: Pool, peak: float) -> list[Part]:
    """Send the burst; return what came of its three parts."""
    sent = [(share * peak, await opened(pool, share * peak, seconds)) for share, seconds in BURST]
    parts = []
    for (rate, tasks), (_, seconds) in zip(sent, BURST, strict=True):
        answers = await _all(tasks)
        good = [each.took for each in answers if each.status == 200]
        refused = sum(each.status == 429 for each in answers)
        assert len(good) + refused == len(answers), "neither answered nor refused"
        parts.append(
            Part(rate, len(good) / seconds, refused / seconds, sum(good) / len(good) * 1000)
        )
    return parts


def calculated(replica: Replica) -> list[Part]:
    """Return what the calculator makes of the same burst."""
    waiting, now, parts = Waiting(replica, patience_s=0, late_ms=1e9), 0, []
    for share, seconds in BURST:
        rate = share * replica.peak
        steps = [waiting.step(now + second, 1, rate, ready=1) for second in range(seconds)]
        now += seconds
        served, present = sum(each.served for each in steps), sum(each.present for each in steps)
        refused = sum(each.refused for each in steps) / seconds
        parts.append(Part(rate, served / seconds, refused, present / served * 1000))
    return parts


async def measure(
    container: Container, one: bytes, many: bytes, rounds: int
) -> tuple[list[Row], list[Point], list[Part]]:
    """Measure a container: how busy single instances make it; what is answered of many, and the burst."""
    host = container.address()
    processor = Processor(container)
    await processor.weigh()
    loads = await busy(Pool(host, one), processor, rounds)
    pool = Pool(host, many)
    found = [await closed(pool, clients) for clients in CLIENTS]
    points = [Point(each.clients, each.per_second, each.p99_ms) for each in found]
    return loads, points, await burst(pool, climbing(points)[-1].per_second)


def table(runs: list[Document]) -> Iterator[str]:
    """Write the bursts themselves for people, as Markdown; a line for each run."""
    yield "| sent/s | answered/s: measured, calculated | refused/s | ms an answer | present: answered/s x s |"
    yield "|---|---|---|---|---|"
    for run in runs:
        real, ours = (Part(**run["burst"][kind][1]) for kind in ("measured", "calculated"))
        present = (each.answered * each.ms / 1000 for each in (real, ours))
        pairs = (
            (real.answered, ours.answered),
            (real.refused, ours.refused),
            (real.ms, ours.ms),
            present,
        )
        yield (
            f"| {real.sent:.0f} | "
            + " | ".join("{:.0f}, {:.0f}".format(*each) for each in pairs)
            + " |"
        )


def shares(runs: list[Document]) -> Iterator[str]:
    """Write how busy it was for people, as Markdown: medians of the runs."""
    found = [
        [row["busy"] for row in rows] for rows in zip(*(run["rows"] for run in runs), strict=True)
    ]
    yield "| requests, of the peak | " + " | ".join(f"{share:.0%}" for share in SHARES) + " |"
    yield "|---" * (len(SHARES) + 1) + "|"
    middle = [min(statistics.median(each), 1) for each in found]
    yield "| processor, of the peak's | " + " | ".join(f"{each:.0%}" for each in middle) + " |"
    extremes = [f"{min(each):.0%} to {max(each):.0%}" for each in found]
    yield "| lowest to highest | " + " | ".join(extremes) + " |"


def same(machine: str, instances: int) -> list[Document]:
    """Return what was measured in this way on such a machine, the earliest first."""
    found = [json.loads(file.read_text()) for file in sorted(BUILD.glob("burst-*.json"))]
    return [
        each
        for each in found
        if each["machine"] == machine
        and each["burst"]["instances"] == instances
        and [row["of_peak"] for row in each["rows"]] == list(SHARES)
    ]


def main() -> None:
    """Run the command line."""
    parser = argparse.ArgumentParser(
        prog="python -m benchmarks.burst",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("image")
    parser.add_argument("--docker", default="docker", help="(%(default)s)")
    parser.add_argument("--instances", type=Path, default="build/model/held-out/instances.json")
    parser.add_argument(
        "--each", type=int, default=16, help="instances a request of the burst (%(default)s)"
    )
    parser.add_argument(
        "--rounds", type=int, default=2, help="of the processor's share (%(default)s)"
    )
    parser.add_argument(
        "--to", type=Path, default="docs/scale.md", help="its tables are replaced (%(default)s)"
    )
    args = parser.parse_args()
    some = json.loads(args.instances.read_text())["instances"]
    one, many = (
        json.dumps({"instances": (some * each)[:each]}).encode() for each in (1, args.each)
    )
    container = Container(args.docker, args.image, "--memory", "2g")
    try:
        container.wait_until_healthy()
        loads, points, parts = asyncio.run(measure(container, one, many, args.rounds))
    finally:
        container.remove()
    told = calculated(Replica(climbing(points), LIMIT))
    ended = datetime.datetime.now(datetime.UTC)
    BUILD.mkdir(parents=True, exist_ok=True)
    file = BUILD / f"burst-{ended:%Y%m%d-%H%M%S}.json"
    document = {
        "ended": ended.isoformat(timespec="seconds"),
        "machine": report.machine(),
        "rows": loads,
        "burst": {
            "instances": args.each,
            "points": [each._asdict() for each in points],
            "measured": [each._asdict() for each in parts],
            "calculated": [each._asdict() for each in told],
        },
    }
    file.write_text(json.dumps(document, indent=2) + "\n")
    runs = same(report.machine(), args.each)
    note = f"{len(runs)} runs; {report.machine()}, which the clients share with the container."
    lines = [*table(runs), "", f"{args.each} instances a request; {note}"]
    report.replace(args.to, "burst", "\n".join(lines))
    report.replace(
        args.to, "busy", "\n".join([*shares(runs), "", f"One instance a request; {note}"])
    )
    print(file)


async def _all(tasks: list[asyncio.Task[Answer]]) -> list[Answer]:
    return list(await asyncio.wait_for(asyncio.gather(*tasks), 60))


def _at(took: list[float], share: float) -> float:
    """Return a percentile of seconds, in ms."""
    return sorted(took)[min(int(len(took) * share), len(took) - 1)] * 1000 if took else float("nan")


if __name__ == "__main__":
    main()
