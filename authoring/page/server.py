"""An HTTP server on loopback: the page, what it shows about the model, and a route that forwards requests."""

import base64
import contextlib
import hashlib
import json
import re
import time
import zipfile
from collections.abc import Generator
from functools import partial
from http import HTTPStatus
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

from authoring.page.targets import Target

HOST = "127.0.0.1"
PAGE = Path(__file__).with_name("index.html")
REQUESTS, SCHEMA = "requests.json", "schema.json"


def create_server(port: int, name: str, archive: Path, target: Target) -> ThreadingHTTPServer:
    """Return a server of the page that is not running yet; port 0 is a free one. Raises OSError."""
    server = ThreadingHTTPServer((HOST, port), partial(PageHandler, name, archive, target))
    server.daemon_threads = True
    return server


def describe_model(name: str, archive: Path, target: Target) -> dict[str, Any]:
    """Return what the page shows about a model, from its archive."""
    requests = _read_member(archive, REQUESTS) or [{"instance": None}]
    schema = _read_member(archive, SCHEMA) or {}
    explains = schema.pop("x-explains", False)
    streams = schema.pop("x-streams", False)
    for parameter in ["explain"] * explains + ["stream"] * streams:
        parameters = {**(requests[0].get("parameters") or {}), parameter: True}
        requests.append({"instance": requests[0]["instance"], "parameters": parameters})
    return {
        "name": name,
        "url": target.url,
        "deployed": target.deployed,
        "endpoint": target.endpoint._asdict(),
        "requests": [
            {"body": _format_body(each), "expected": each.get("expected")} for each in requests
        ],
        "labels": schema.pop("x-labels", []),
        "accepts": schema.pop("x-accepts", []),
        "explains": explains,
        "schema": schema or None,
    }


def _format_body(request: dict[str, Any]) -> str:
    """Return a predict request as text: JavaScript would read 1.0 as 1."""
    body = {"instances": [request["instance"]]}
    if request.get("parameters"):
        body["parameters"] = request["parameters"]
    return json.dumps(body, indent=2, ensure_ascii=False)


def _read_member(archive: Path, member: str) -> Any:
    with zipfile.ZipFile(archive) as opened:
        return json.loads(opened.read(member)) if member in opened.namelist() else None


class PageHandler(BaseHTTPRequestHandler):
    """Answers only requests of the page itself, so that no other site can reach the model."""

    protocol_version = "HTTP/1.1"

    def __init__(self, name: str, archive: Path, target: Target, *args: Any) -> None:
        self._name, self._archive, self._target = name, archive, target
        super().__init__(*args)

    def do_GET(self) -> None:
        """Send the page or the description of the model."""
        if not self._is_same_site():
            return
        if self.path == "/":
            page = PAGE.read_text(encoding="utf-8")
            self._send(HTTPStatus.OK, page.encode(), "text/html; charset=utf-8", _policy(page))
        elif self.path == "/model.json":
            description = describe_model(self._name, self._archive, self._target)
            self._send(HTTPStatus.OK, json.dumps(description).encode())
        else:
            self._send(HTTPStatus.NOT_FOUND, b"not found", "text/plain")

    def do_POST(self) -> None:
        """Forward a predict request; Server-Timing has the milliseconds to the answer, or to its first part."""
        body = self.rfile.read(int(self.headers.get("Content-Length") or 0))
        if not self._is_same_site():
            return
        if self.path != "/predict" or self.headers.get_content_type() != "application/json":
            self._send(HTTPStatus.NOT_FOUND, b"not found", "text/plain")
            return
        start_s = time.perf_counter()
        if is_streamed(body):
            code, parts = self._target.stream(body)
            self._send_parts(code, parts, _format_timing(start_s))
            return
        code, response = self._target.predict(body)
        self._send(code, response, headers=_format_timing(start_s))

    def _is_same_site(self) -> bool:
        """Return whether the request comes from this page; send a 403 if not."""
        # Another site can let its own name resolve to 127.0.0.1, or post here from its own origin.
        _, port = self.connection.getsockname()
        hosts = (f"{HOST}:{port}", f"localhost:{port}")
        host, origin = self.headers.get("Host"), self.headers.get("Origin")
        if host in hosts and origin in (None, f"http://{host}"):
            return True
        self._send(HTTPStatus.FORBIDDEN, b"only this page may use this server", "text/plain")
        return False

    def _send(
        self,
        code: int,
        body: bytes,
        content_type: str = "application/json",
        headers: dict[str, str] | None = None,
    ) -> None:
        self.send_response(code)
        standard = {"Content-Type": content_type, "Content-Length": str(len(body))}
        standard |= {"Cache-Control": "no-store", "X-Content-Type-Options": "nosniff"}
        for name, value in {**standard, **(headers or {})}.items():
            self.send_header(name, value)
        self.end_headers()
        self.wfile.write(body)

    def _send_parts(self, code: int, parts: Generator[bytes], headers: dict[str, str]) -> None:
        """Send each part of a response at once; close the generator if the browser leaves."""
        self.send_response(code)
        standard = {"Content-Type": "text/plain", "Transfer-Encoding": "chunked"}
        for name, value in {**standard, "Cache-Control": "no-store", **headers}.items():
            self.send_header(name, value)
        self.end_headers()
        with contextlib.closing(parts), contextlib.suppress(ConnectionError):
            for part in parts:
                self.wfile.write(b"%x\r\n%s\r\n" % (len(part), part))
            self.wfile.write(b"0\r\n\r\n")

    def log_message(self, *_: Any) -> None:
        """Print nothing: the page shows each answer."""


def is_streamed(body: bytes) -> bool:
    """Whether a request asks for a stream."""
    try:
        return json.loads(body)["parameters"]["stream"] is True
    except (ValueError, KeyError, TypeError):
        return False


def _format_timing(start_s: float) -> dict[str, str]:
    return {"Server-Timing": f"predict;dur={(time.perf_counter() - start_s) * 1000:.1f}"}


def _policy(page: str) -> dict[str, str]:
    """Return a header by which the page runs only its own script, and connects only to this server."""
    [script] = re.findall(r"<script>(.*?)</script>", page, re.DOTALL)
    digest = base64.b64encode(hashlib.sha256(script.encode()).digest()).decode()
    policy = (
        f"default-src 'none'; script-src 'sha256-{digest}'; style-src 'unsafe-inline'; "
        "img-src data:; connect-src 'self'; frame-ancestors 'none'; base-uri 'none'; form-action 'none'"
    )
    return {"Content-Security-Policy": policy}
