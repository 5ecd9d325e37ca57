"""A client for the tests: one request, one answer, every wait bounded."""

import concurrent.futures
import http.client
import time
from collections.abc import Callable, Iterable
from typing import NamedTuple
from urllib.parse import urlsplit

JSON_TYPE = {"Content-Type": "application/json"}


class Answer(NamedTuple):
    """What came back."""

    code: int
    body: str
    headers: dict[str, str]


class Endpoint(NamedTuple):
    """A URL that predicts."""

    url: str

    def post(self, body: bytes, headers: dict[str, str] = JSON_TYPE) -> Answer:
        """Send a request to predict."""
        return self.send("POST", urlsplit(self.url).path, body, headers)

    def send(
        self,
        method: str,
        path: str,
        body: bytes | Iterable[bytes] = b"",
        headers: dict[str, str] | None = None,
    ) -> Answer:
        """Send any request to the same host; what is no bytes goes in chunks."""
        connection = http.client.HTTPConnection(urlsplit(self.url).netloc, timeout=60)
        try:
            connection.request(method, path, body, headers or {})
            response = connection.getresponse()
            text = response.read().decode()
            names = {name.lower(): value for name, value in response.getheaders()}
            return Answer(response.status, text, names)
        finally:
            connection.close()


def wait_for(condition: Callable[[], object], within_s: float, what: str) -> None:
    """Call `condition` until it is true; fail with `what` was waited for."""
    deadline = time.monotonic() + within_s
    while not condition():
        assert time.monotonic() < deadline, f"{what}: not within {within_s} s"
        time.sleep(0.1)


def crowd(endpoint: Endpoint, bodies: list[bytes], rounds: int) -> list[list[Answer]]:
    """Send each body `rounds` times, one client a body, all at once; answers by client."""

    def client(body: bytes) -> list[Answer]:
        return [endpoint.post(body) for _ in range(rounds)]

    with concurrent.futures.ThreadPoolExecutor(len(bodies)) as pool:
        return list(pool.map(client, bodies, timeout=120))
