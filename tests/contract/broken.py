"""Servers that break Vertex AI's contract, one clause each; "whole" breaks none.

Run by test_contract.py, as a process or in a container: python3 broken.py KIND.
"""

import json
import os
import sys
import threading
import time
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

KIND = sys.argv[1] if len(sys.argv) > 1 else "whole"
PORT = int(os.environ.get("AIP_HTTP_PORT", "8080"))
HEALTH = os.environ.get("AIP_HEALTH_ROUTE", "/ping")
PREDICT = os.environ.get("AIP_PREDICT_ROUTE", "/predict")
BEGAN = time.monotonic()

if KIND == "fixed port":
    PORT = 0  # whatever is free
if KIND in {"fixed routes", "default routes ignored"} and (
    KIND == "fixed routes" or HEALTH.startswith("/v1/")
):
    HEALTH, PREDICT = "/ping", "/predictions/model"


class Handler(BaseHTTPRequestHandler):
    """Doubles numbers."""

    def do_GET(self) -> None:
        """Answer the health route."""
        healthy = self.path == HEALTH and KIND != "never healthy"
        self.reply(200 if healthy else 503, {})

    def do_POST(self) -> None:
        """Answer the predict route."""
        body = self.rfile.read(int(self.headers["Content-Length"]))
        if self.path != PREDICT:
            self.reply(404, {})
        elif KIND == "healthy before it predicts" and time.monotonic() < BEGAN + 2:
            self.reply(503, {})
        elif KIND == "small requests only" and len(body) > 1_000_000:
            self.reply(413, {})
        else:
            self.reply(*self.predict(body))

    def predict(self, body: bytes) -> tuple[int, Any]:
        """Return a status and a document."""
        try:
            instances = json.loads(body)["instances"]
            assert isinstance(instances, list)
            assert instances
        except (ValueError, KeyError, TypeError, AssertionError):
            return (503 if KIND == "503 for a client's fault" else 400), {}
        answered = [2 * one for one in instances]
        if KIND == "reads data[0]":
            answered = answered[:1]
        if KIND == "out of order":
            answered.sort()
        if KIND == "exits":
            threading.Timer(0.2, os._exit, (0,)).start()
        return 200, answered if KIND == "a bare array" else {"predictions": answered}

    def reply(self, code: int, document: Any) -> None:
        """Send JSON."""
        content = json.dumps(document).encode()
        self.send_response(code)
        kind = "text/html" if KIND == "JSON called HTML" else "application/json"
        self.send_header("Content-Type", kind)
        self.send_header("Content-Length", str(len(content)))
        self.end_headers()
        self.wfile.write(content)

    def log_message(self, *_: object) -> None:
        """Say nothing."""


if __name__ == "__main__":
    if KIND == "ends at once":
        sys.exit("no model here")
    host = "127.0.0.1" if KIND == "listens to itself" else "0.0.0.0"  # noqa: S104
    ThreadingHTTPServer.request_queue_size = 128
    ThreadingHTTPServer((host, PORT), Handler).serve_forever()
