"""The worker's log lines."""

import json
import logging
import os
import sys
from typing import ClassVar

from ts.context import RequestProcessor


class JsonFormatter(logging.Formatter):
    """Formats warnings and errors as one JSON object a line, which serving/logs.py parses.

    Lower levels stay text, because TorchServe's Java waits for some of these lines.
    """

    requests: ClassVar[list[RequestProcessor]] = []
    """The headers of the requests that are being processed."""

    def format(self, record: logging.LogRecord) -> str:
        """Return the line."""
        message = super().format(record)
        if record.levelno < logging.WARNING:
            return " ".join(message.split("\n"))
        line = {
            "severity": record.levelname,
            "message": message,
            "requests": self._get_headers("X-Request-Id"),
        }
        traces = self._get_headers("X-Trace")
        if len(set(traces)) == 1:  # a log line has one trace
            line["trace"] = traces[0]
        return json.dumps(line)

    def _get_headers(self, name: str) -> list[str]:
        values = (headers.get_request_property(name) for headers in self.requests)
        return [value for value in values if value]


def configure_logging() -> None:
    """Write log records to standard output, which Java reads."""
    handler = logging.StreamHandler(sys.stdout)
    handler.setFormatter(JsonFormatter("%(message)s"))
    logging.basicConfig(handlers=[handler], level=os.environ.get("WORKER_LOG_LEVEL", "INFO"))
    # At DEBUG these libraries log each of their own requests, which are not the model's.
    for name in ("PIL", "urllib3", "google"):
        logging.getLogger(name).setLevel(logging.INFO)
