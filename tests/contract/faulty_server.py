"""A server that violates one requirement of Vertex AI's contract, or none if KIND is "valid".

test_contract.py runs it, as a process or in a container: python3 faulty_server.py KIND.
"""

import json
import os
import random
import sys
import threading
import time
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

KIND = sys.argv[1] if len(sys.argv) > 1 else "valid"
PORT = int(os.environ.get("AIP_HTTP_PORT", "8080"))
HEALTH = os.environ.get("AIP_HEALTH_ROUTE", "/ping")
PREDICT = os.environ.get("AIP_PREDICT_ROUTE", "/predict")
STARTED = time.monotonic()

if KIND == "fixed port":
    PORT = 0  # any free port
if KIND in {"fixed routes", "default routes ignored"} and (
    KIND == "fixed routes" or HEALTH.startswith("/v1/")
):
    HEALTH, PREDICT = "/ping", "/predictions/model"


class Handler(BaseHTTPRequestHandler):
    """Multiplies numbers by `parameters.factor`, which is 2 if the server does not require it."""

    def do_GET(self) -> None:
        """Handle the health route."""
        healthy = self.path == HEALTH and KIND != "never healthy"
        self.send(200 if healthy else 503, {})

    def do_POST(self) -> None:
        """Handle the predict route."""
        body = self.rfile.read(int(self.headers["Content-Length"]))
        if self.path != PREDICT:
            self.send(404, {})
        elif KIND == "healthy before it predicts" and time.monotonic() < STARTED + 2:
            self.send(503, {})
        elif KIND == "small requests only" and len(body) > 1_000_000:
            self.send(413, {})
        else:
            self.send(*self.predict(body))

    def predict(self, body: bytes) -> tuple[int, Any]:
        """Return a status and a document."""
        try:
            document = json.loads(body)
            instances, parameters = document["instances"], document.get("parameters", {})
            assert isinstance(instances, list)
            assert instances
            factor = parameters["factor"] if KIND == "factor required" else 2
        except (ValueError, KeyError, TypeError, AssertionError):
            return (503 if KIND == "503 for an invalid request" else 400), {}
        predictions = [factor * instance for instance in instances]
        if KIND == "last digits differ":
            predictions = [each * 1e6 * (1 + random.random() * 1e-6) for each in predictions]
        if KIND == "reads data[0]":
            predictions = predictions[:1]
        if KIND == "out of order":
            predictions.sort()
        if KIND == "exits after a prediction":
            threading.Timer(0.2, os._exit, (0,)).start()
        return 200, predictions if KIND == "a bare array" else {"predictions": predictions}

    def send(self, code: int, document: Any) -> None:
        """Send a JSON response."""
        content = json.dumps(document).encode()
        self.send_response(code)
        content_type = "text/html" if KIND == "JSON sent as HTML" else "application/json"
        self.send_header("Content-Type", content_type)
        self.send_header("Content-Length", str(len(content)))
        self.end_headers()
        self.wfile.write(content)

    def log_message(self, *_: object) -> None:
        """Log no requests."""


if __name__ == "__main__":
    if KIND == "exits at start":
        sys.exit("Error: no model found")
    host = "127.0.0.1" if KIND == "listens on loopback only" else "0.0.0.0"  # noqa: S104
    ThreadingHTTPServer.request_queue_size = 128
    ThreadingHTTPServer((host, PORT), Handler).serve_forever()
