"""Clients that send requests to a server, each with one request at a time: a process of the load generator.

It is a program of its own, because wrk cannot connect to the workers' socket, and one process of Python is too slow
for the clients of a fast server.
"""

import asyncio
import json
import sys
import time
from pathlib import Path

TIMEOUT_S = 60


def main() -> None:
    """Read the load from the arguments; print the results as JSON."""
    address, bodies, clients, first, start_at, seconds, route = sys.argv[1:]
    requests = [
        format_request(body, route, keep_alive=not address.startswith("/"))
        for body in Path(bodies).read_bytes().splitlines()
    ]
    load = _Load(address, requests, float(start_at), float(start_at) + float(seconds))
    asyncio.run(load.run(int(clients), int(first)))
    print(json.dumps({"times_ms": load.times_ms, "failed": load.failed}))


def format_request(body: bytes, route: str, *, keep_alive: bool) -> bytes:
    """Return an HTTP request."""
    connection = "keep-alive" if keep_alive else "close"
    head = (
        f"POST {route} HTTP/1.1\r\nHost: localhost\r\nConnection: {connection}\r\n"
        f"Content-Type: application/json\r\nContent-Length: {len(body)}\r\n\r\n"
    )
    return head.encode() + body


async def open_connection(address: str) -> tuple[asyncio.StreamReader, asyncio.StreamWriter]:
    """Connect to the path of a socket or to a port on loopback."""
    if address.startswith("/"):
        return await asyncio.open_unix_connection(address)
    return await asyncio.open_connection("127.0.0.1", int(address))


async def read_response(reader: asyncio.StreamReader) -> tuple[int, bytes]:
    """Return the status and the body of a response."""
    lines = (await reader.readuntil(b"\r\n\r\n")).split(b"\r\n")
    pairs = (line.partition(b":") for line in lines[1:])
    headers = {name.strip().lower(): value.strip() for name, _, value in pairs}
    body = await reader.readexactly(int(headers[b"content-length"]))
    return int(lines[0].split()[1]), body


class _Load:
    """The requests of all clients of this process."""

    def __init__(self, address: str, requests: list[bytes], start_at: float, end_at: float) -> None:
        self._address, self._requests = address, requests
        self._start_at, self._end_at = start_at, end_at
        self.times_ms: list[float] = []
        self.failed = 0

    async def run(self, clients: int, first: int) -> None:
        """Send requests until the end; the clients begin with different ones."""
        await asyncio.gather(*(self._run_client(first + index) for index in range(clients)))

    async def _run_client(self, index: int) -> None:
        connection = None
        await asyncio.sleep(max(self._start_at - time.monotonic(), 0))
        while (began := time.monotonic()) < self._end_at:
            try:
                async with asyncio.timeout(TIMEOUT_S):
                    reader, writer = connection or await open_connection(self._address)
                    writer.write(self._requests[index % len(self._requests)])
                    status, _ = await read_response(reader)
            except (OSError, EOFError, TimeoutError):
                self.failed += 1
                connection = None
                continue
            if self._address.startswith("/"):
                writer.close()
            else:
                connection = reader, writer
            index += 1
            ended = time.monotonic()
            if ended <= self._end_at:
                self.times_ms.append(1000 * (ended - began))
                self.failed += status >= 400


if __name__ == "__main__":
    main()
