"""A minimal image that follows Vertex AI's container contract. The variable FAULT makes it break the contract."""

import json
import os
import signal
import sys
import time
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

FAULT = os.environ.get("FAULT", "")


def predict(instance: object) -> object:
    """Return the instance, or run the command in it.

    {"environment": NAME} returns a variable, {"seconds": S} delays, {"bytes": N} returns N characters, and
    {"exit": true} ends the process. {"invalid": true} as the only instance gets a 400.
    """
    if not isinstance(instance, dict):
        return instance
    if "environment" in instance:
        return os.environ.get(instance["environment"])
    if "exit" in instance:
        os._exit(1)
    time.sleep(instance.get("seconds", 0))
    return "x" * int(instance.get("bytes", 0))


class Handler(BaseHTTPRequestHandler):
    def do_GET(self) -> None:
        ready = self.path == os.environ["AIP_HEALTH_ROUTE"] and FAULT != "sick"
        self.reply(200 if ready else 503, {})

    def do_POST(self) -> None:
        body = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
        if self.path != os.environ["AIP_PREDICT_ROUTE"]:
            return self.reply(404, {"error": self.path})
        if FAULT == "wrong":
            return self.reply(500, {"error": "broken"})
        if FAULT == "slow":
            time.sleep(0.3)
        if body["instances"] == [{"invalid": True}]:
            error = {"code": 400, "status": "INVALID_ARGUMENT", "message": "instances[0]: invalid"}
            return self.reply(400, {"error": error})
        predictions = [predict(instance) for instance in body["instances"]]
        return self.reply(200, {"predictions": predictions})

    def reply(self, status: int, content: dict[str, object]) -> None:
        self.send_response(status)
        self.send_header("Content-Type", "application/json")
        self.end_headers()
        self.wfile.write(json.dumps(content).encode())

    def log_message(self, *_: object) -> None:
        pass


if __name__ == "__main__":
    if FAULT == "exits":
        sys.exit("the weights are cut short")
    # The first process of a container has no default action for SIGTERM.
    signal.signal(signal.SIGTERM, lambda *_: os._exit(0))
    ThreadingHTTPServer(("0.0.0.0", int(os.environ["AIP_HTTP_PORT"])), Handler).serve_forever()  # noqa: S104
