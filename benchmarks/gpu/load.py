"""Load on a server from several processes of benchmarks.gpu.client, and single requests."""

import asyncio
import json
import statistics
import subprocess
import sys
import time
from pathlib import Path
from typing import NamedTuple

from benchmarks.gpu import client
from benchmarks.load import LoadResult
from serving import resources

CLIENTS_PER_PROCESS = 8
"""After a batch all of its clients send their next requests at once; a process needs some 0.2 ms for each."""
START_S = 0.4
"""Within this time the processes of the load generator have started."""


class Address(NamedTuple):
    """Where a server listens."""

    target: str
    """The path of a socket, or a port on loopback."""
    route: str


def measure(address: Address, bodies: Path, clients: int, seconds: float) -> LoadResult:
    """Send requests from a number of clients, each with one at a time, for some seconds."""
    count = max(min(-(-clients // CLIENTS_PER_PROCESS), resources.cores() // 2), 1)
    start_at = time.monotonic() + START_S
    processes = []
    for index in range(count):
        first, following = clients * index // count, clients * (index + 1) // count
        load = (str(following - first), str(first), str(start_at), str(seconds))
        arguments = (address.target, str(bodies), *load, address.route)
        command = [sys.executable, "-m", client.__name__, *arguments]
        processes.append(subprocess.Popen(command, stdout=subprocess.PIPE, text=True))
    times_ms: list[float] = []
    failed = 0
    for process in processes:
        output, _ = process.communicate(timeout=seconds + client.TIMEOUT_S + 10)
        result = json.loads(output)
        times_ms += result["times_ms"]
        failed += result["failed"]
    if not times_ms:
        return LoadResult(0, 0, 0, failed, duration_s=seconds)
    times_ms.sort()
    p99_ms = times_ms[len(times_ms) * 99 // 100]
    rate = len(times_ms) / seconds
    return LoadResult(rate, statistics.median(times_ms), p99_ms, failed, duration_s=seconds)


def send(address: Address, body: bytes) -> tuple[int, bytes]:
    """Send one request; return the status and the body of the response. Raises OSError or EOFError."""

    async def exchange() -> tuple[int, bytes]:
        async with asyncio.timeout(client.TIMEOUT_S):
            reader, writer = await client.open_connection(address.target)
            try:
                writer.write(client.format_request(body, address.route, keep_alive=False))
                return await client.read_response(reader)
            finally:
                writer.close()

    return asyncio.run(exchange())
