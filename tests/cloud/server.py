"""A minimal image that follows Vertex AI's container contract. The variable FAULT makes it break the contract."""

import json
import os
import signal
import sys
import threading
import time
from collections.abc import Sequence
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

FAULT = os.environ.get("FAULT", "")
ACKNOWLEDGED = threading.Semaphore(0)
"""How many parts of streams were acknowledged and did not lead to the next part yet."""
MAX_WAIT_S = 20


def predict(instance: object) -> object:
    """Return the instance, or run the command in it.

    {"environment": NAME} returns a variable, {"seconds": S} delays, {"bytes": N} returns N characters,
    {"acknowledge": true} lets a stream continue, and {"exit": true} ends the process. As the only instance,
    {"invalid": true} gets a 400, {"header": NAME} returns a header of the request and sends X-Answer, and
    {"body": TEXT} is answered with that text.
    """
    if not isinstance(instance, dict):
        return instance
    if "environment" in instance:
        return os.environ.get(instance["environment"])
    if "exit" in instance:
        os._exit(1)
    if "acknowledge" in instance:
        ACKNOWLEDGED.release()
    time.sleep(instance.get("seconds", 0))
    return "x" * int(instance.get("bytes", 0))


class Handler(BaseHTTPRequestHandler):
    def do_GET(self) -> None:
        ready = self.path == os.environ["AIP_HEALTH_ROUTE"] and FAULT != "sick"
        self.reply(200 if ready else 503, {})

    def do_POST(self) -> None:  # noqa: PLR0911  a return for each kind of response
        content = self.rfile.read(int(self.headers["Content-Length"]))
        if self.path == "/stream":
            return self.stream(content.decode().splitlines())
        if self.path != os.environ["AIP_PREDICT_ROUTE"]:
            return self.reply(404, {"error": self.path})
        if self.headers["Content-Type"] not in (None, "application/json"):
            return self.reply(200, {"type": self.headers["Content-Type"], "bytes": len(content)})
        body = json.loads(content)
        if (body.get("parameters") or {}).get("stream") is True:
            return self.stream(body["instances"])
        if FAULT == "wrong":
            return self.reply(500, {"error": "broken"})
        if FAULT == "slow":
            time.sleep(0.3)
        if body["instances"] == [{"invalid": True}]:
            error = {"code": 400, "status": "INVALID_ARGUMENT", "message": "instances[0]: invalid"}
            return self.reply(400, {"error": error})
        first = body["instances"][0]
        if isinstance(first, dict) and "body" in first:
            return self.reply(200, first["body"])
        if isinstance(first, dict) and "header" in first:
            return self.reply(200, {"predictions": [self.headers[first["header"]]]}, "X-Answer")
        predictions = [predict(instance) for instance in body["instances"]]
        return self.reply(200, {"predictions": predictions})

    def stream(self, parts: Sequence[object]) -> None:
        """Send each part as a line, but only after the one before it was acknowledged."""
        self.protocol_version = "HTTP/1.1"
        self.send_response(200)
        self.send_header("Content-Type", "application/x-ndjson")
        self.send_header("Transfer-Encoding", "chunked")
        self.send_header("Connection", "close")
        self.end_headers()
        for index, part in enumerate(parts):
            is_due = index == 0 or ACKNOWLEDGED.acquire(timeout=MAX_WAIT_S)
            line = json.dumps(part if is_due else "not acknowledged").encode() + b"\n"
            self.wfile.write(b"%x\r\n%s\r\n" % (len(line), line))
        self.wfile.write(b"0\r\n\r\n")

    def reply(self, status: int, content: dict[str, object] | str, header: str = "") -> None:
        self.send_response(status)
        self.send_header("Content-Type", "application/json")
        if header:
            self.send_header(header, "sent")
        self.end_headers()
        text = content if isinstance(content, str) else json.dumps(content)
        self.wfile.write(text.encode())

    def log_message(self, *_: object) -> None:
        pass


if __name__ == "__main__":
    if FAULT == "exits":
        sys.exit("the weights are cut short")
    # The first process of a container has no default action for SIGTERM.
    signal.signal(signal.SIGTERM, lambda *_: os._exit(0))
    ThreadingHTTPServer(("0.0.0.0", int(os.environ["AIP_HTTP_PORT"])), Handler).serve_forever()  # noqa: S104
