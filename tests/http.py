"""HTTP for the tests: a client with timeouts, a server of a Flask application, and waiting."""

import concurrent.futures
import contextlib
import http.client
import logging
import socket
import ssl
import threading
import time
from collections.abc import Callable, Iterable, Iterator
from typing import NamedTuple
from urllib.parse import urlsplit

from flask import Flask
from werkzeug.serving import make_server

JSON_TYPE = {"Content-Type": "application/json"}


class Response(NamedTuple):
    """A response; the names of its headers are in lower case."""

    code: int
    body: str
    headers: dict[str, str]


class Endpoint(NamedTuple):
    """The URL of a predict route."""

    url: str

    def post(self, body: bytes, headers: dict[str, str] = JSON_TYPE) -> Response:
        """Send a POST to the URL."""
        return self.send("POST", urlsplit(self.url).path, body, headers)

    def send(
        self,
        method: str,
        path: str,
        body: bytes | Iterable[bytes] = b"",
        headers: dict[str, str] | None = None,
    ) -> Response:
        """Send a request to the same host; a body that is not bytes is sent in chunks."""
        connection = http.client.HTTPConnection(urlsplit(self.url).netloc, timeout=60)
        try:
            connection.request(method, path, body, headers or {})
            response = connection.getresponse()
            text = response.read().decode()
            lower_case = {name.lower(): value for name, value in response.getheaders()}
            return Response(response.status, text, lower_case)
        finally:
            connection.close()


@contextlib.contextmanager
def serve_cut_stream(part: bytes) -> Iterator[str]:
    """Answer one request with one part of a response that has no end; yield HOST:PORT."""
    head = b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n"

    def answer() -> None:
        connection, _ = listener.accept()
        with connection:
            connection.recv(1 << 16)
            connection.sendall(head + b"%x\r\n%s\r\n" % (len(part), part))

    with socket.create_server(("127.0.0.1", 0)) as listener:
        listener.settimeout(30)
        server = threading.Thread(target=answer)
        server.start()
        yield f"127.0.0.1:{listener.getsockname()[1]}"
        server.join()


@contextlib.contextmanager
def serve_app(
    app: Flask, host: str = "127.0.0.1", context: ssl.SSLContext | None = None
) -> Iterator[str]:
    """Serve an application on a free port of `host`; yield HOST:PORT."""
    logging.getLogger("werkzeug").setLevel(logging.ERROR)
    server = make_server(host, 0, app, threaded=True, ssl_context=context)
    with contextlib.ExitStack() as stack:
        stack.callback(server.server_close)
        threading.Thread(target=server.serve_forever, daemon=True).start()
        stack.callback(server.shutdown)
        yield f"{host}:{server.port}"


def wait_for(condition: Callable[[], object], timeout_s: float, description: str) -> None:
    """Call `condition` until it is true; after `timeout_s` fail with `description`."""
    deadline = time.monotonic() + timeout_s
    while not condition():
        assert time.monotonic() < deadline, f"{description}: not within {timeout_s} s"
        time.sleep(0.1)


def send_concurrently(endpoint: Endpoint, bodies: list[bytes], rounds: int) -> list[list[Response]]:
    """Send each body `rounds` times, one client per body, all at once; return responses by client."""

    def client(body: bytes) -> list[Response]:
        return [endpoint.post(body) for _ in range(rounds)]

    with concurrent.futures.ThreadPoolExecutor(len(bodies)) as pool:
        return list(pool.map(client, bodies, timeout=120))
