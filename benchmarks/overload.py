"""More requests than can be answered: how many are, and how soon the others hear of it.

First the peak, by clients that each wait for their answer. Then requests that come at a fixed
rate whatever happens to those before, up to four times the peak: a client that is refused does
not come again.
"""

import argparse
import asyncio
import json
import time
from pathlib import Path
from typing import NamedTuple

from benchmarks import report
from benchmarks.container import PORT, PREDICT, Container

CLIENTS = 32
"""That find the peak."""
SECONDS = 8.0
"""Of each rate."""
CONNECTIONS = 600


class Answer(NamedTuple):
    """One request's end; the time in seconds."""

    status: int
    took: float
    retry_after: bool


class Pool:
    """Connections that are kept; one more is opened where all are in use."""

    def __init__(self, host: str, body: bytes) -> None:
        head = (
            f"POST {PREDICT} HTTP/1.1\r\nHost: {host}\r\nContent-Type: application/json\r\n"
            f"Content-Length: {len(body)}\r\n\r\n"
        )
        self._host, self._request = host, head.encode() + body
        self._free: list[tuple[asyncio.StreamReader, asyncio.StreamWriter]] = []

    async def ask(self) -> Answer:
        """Send the request; raise OSError and its kin where no answer comes."""
        began = time.perf_counter()
        connection = (
            self._free.pop() if self._free else await asyncio.open_connection(self._host, PORT)
        )
        reader, writer = connection
        writer.write(self._request)
        head = (await reader.readuntil(b"\r\n\r\n")).lower()
        length = int(head.split(b"content-length:")[1].split(b"\r\n")[0])
        await reader.readexactly(length)
        took = time.perf_counter() - began
        if b"connection: close" in head:
            writer.close()
        else:
            self._free.append(connection)
        return Answer(int(head.split()[1]), took, b"retry-after:" in head)


async def peak(pool: Pool) -> float:
    """Return the requests a second that CLIENTS get answered."""
    ends = time.perf_counter() + SECONDS

    async def client() -> int:
        answered = 0
        while time.perf_counter() < ends:
            answered += (await pool.ask()).status == 200
        return answered

    return sum(await asyncio.gather(*(client() for _ in range(CLIENTS)))) / SECONDS


async def offered(pool: Pool, rate: float) -> tuple[list[Answer], float]:
    """Send `rate` requests a second for SECONDS; return the answers and the time till the last."""
    tasks, began = [], time.perf_counter()
    for number in range(int(rate * SECONDS)):
        wait = began + number / rate - time.perf_counter()
        if wait > 0:
            await asyncio.sleep(wait)
        tasks.append(asyncio.create_task(pool.ask()))
    answers = await asyncio.wait_for(asyncio.gather(*tasks), 120)
    return list(answers), time.perf_counter() - began


def row(times: float, rate: float, answers: list[Answer], took: float, best: float) -> str:
    """Write a line of the table."""
    good = sorted(one.took for one in answers if one.status == 200)
    refused = sorted(one.took for one in answers if one.status == 429)
    others = len(answers) - len(good) - len(refused)
    assert all(one.retry_after for one in answers if one.status == 429)
    goodput = len(good) / took
    late = "-"
    if refused:
        middle, last = refused[len(refused) // 2], refused[len(refused) * 99 // 100]
        late = f"{middle * 1e3:.1f}, {last * 1e3:.1f}"
    return (
        f"| {times:g} | {rate:.0f} | {goodput:.0f} | {goodput / best:.2f} | {len(refused)} "
        f"| {late} | {good[len(good) // 2] * 1e3:.0f} | {others} |"
    )


async def measure(host: str, body: bytes, rounds: int) -> list[str]:
    """Return the table's lines."""
    lines = [
        "| times the peak | offered/s | answered/s | of the peak | 429s "
        "| 429 after ms: p50, p99 | 200 after ms: p50 | anything else |",
        "|---|---|---|---|---|---|---|---|",
    ]
    for _ in range(rounds):
        best = await peak(Pool(host, body))
        for times in (0.5, 1.5, 2, 4):
            answers, took = await offered(Pool(host, body), times * best)
            lines.append(row(times, times * best, answers, took, best))
            print(lines[-1], flush=True)
    return lines


def main() -> None:
    """Run the command line."""
    parser = argparse.ArgumentParser(
        prog="python -m benchmarks.overload",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("image")
    parser.add_argument("--docker", default="docker", help="(%(default)s)")
    parser.add_argument("--instances", type=Path, default="build/model/held-out/instances.json")
    parser.add_argument("--each", type=int, default=16, help="instances a request (%(default)s)")
    parser.add_argument("--rounds", type=int, default=3, help="(%(default)s)")
    parser.add_argument(
        "--to", type=Path, default="docs/container.md", help="its table is replaced (%(default)s)"
    )
    args = parser.parse_args()
    some = json.loads(args.instances.read_text())["instances"]
    body = json.dumps({"instances": (some * args.each)[: args.each]}).encode()
    container = Container(args.docker, args.image, "--memory", "2g")
    try:
        container.wait_until_healthy()
        lines = asyncio.run(measure(container.address(), body, args.rounds))
    finally:
        container.remove()
    note = f"{args.each} instances a request, {SECONDS:.0f} s a rate; {report.machine()}, "
    note += "which the clients share with the container."
    report.replace(args.to, "overload", "\n".join([*lines, "", note]))


if __name__ == "__main__":
    main()
