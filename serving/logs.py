"""Log lines: what TorchServe's processes say, taken in; what the container says, written out.

One JSON object a line in Cloud Logging's own fields, so that severity, time and labels are what
they are there; or, for people, one line of text. Never what a client sent: who writes a message
sees to that.
Source: https://docs.cloud.google.com/logging/docs/structured-logging
"""

import json
import sys
import threading
import time
import traceback
from collections.abc import Mapping
from datetime import UTC, datetime
from types import TracebackType
from typing import IO, Any, NamedTuple, TextIO

SEVERITIES = ("DEBUG", "INFO", "WARNING", "ERROR", "CRITICAL")
LABELS = "logging.googleapis.com/labels"
TRACE = "logging.googleapis.com/trace"


class LogRecord(NamedTuple):
    """One thing that one of TorchServe's processes said."""

    severity: str
    """One of SEVERITIES."""
    message: str
    """With its traceback, if it has one."""
    process: str
    """torchserve: Java; worker: a process that runs the model."""
    requests: tuple[str, ...] = ()
    """The ids of the requests that the worker was at."""
    trace: str = ""
    """The trace that they belong to, where it is one."""

    def __str__(self) -> str:
        """Return it for people."""
        return f"{self.severity} {self.process}: {self.message}"


def parse_line(text: str) -> LogRecord:
    """Take in a line of Java's standard output, in which the workers' lines are wrapped.

    serving/log4j2.xml writes JSON; Java itself, before that is read, writes text.
    """
    said = _object(text)
    if said is None or "message" not in said:
        return LogRecord("INFO", text, "torchserve")
    severity, message = str(said.get("severity")), str(said["message"])
    severity = severity if severity in SEVERITIES else "INFO"
    if said.get("logger") != "MODEL_LOG":
        return LogRecord(severity, message, "torchserve")
    own = _object(message)
    # A handler may print anything, and JSON too.
    if (
        own is None
        or own.get("severity") not in SEVERITIES
        or not isinstance(own.get("requests"), list)
    ):
        return LogRecord(severity, message, "worker")
    requests = tuple(str(each) for each in own["requests"])
    trace = str(own.get("trace", ""))
    return LogRecord(own["severity"], str(own.get("message")), "worker", requests, trace)


def _object(text: str) -> dict[str, Any] | None:
    if not text.startswith("{"):
        return None
    try:
        found = json.loads(text)
    except (ValueError, RecursionError):
        return None
    return found if isinstance(found, dict) else None


class Log:
    """Writes lines to a stream, from any thread."""

    def __init__(self, *, as_text: bool = False, stream: TextIO | None = None) -> None:
        """`as_text` is whether they are for people; `stream` is standard output unless given."""
        self._stream, self._lock = stream or sys.stdout, threading.Lock()
        self.configure(as_text=as_text)

    def configure(
        self, *, as_text: bool, level: str = "INFO", labels: Mapping[str, str] | None = None
    ) -> None:
        """Write otherwise: `level` is the least severity, `labels` go with every line of JSON."""
        self._as_text, self._least = as_text, SEVERITIES.index(level)
        self._labels = dict(labels or {})

    def write(
        self, severity: str, message: str, process: str = "entrypoint", **more: object
    ) -> None:
        """Write a line; `more` are fields of it."""
        if severity in SEVERITIES and SEVERITIES.index(severity) < self._least:
            return
        if self._as_text:
            start = "" if process == "entrypoint" else f"{process}: "
            text = f"{time.strftime('%H:%M:%S')} {severity:7} {start}{message}"
        else:
            said = {"severity": severity, "time": _now(), "message": message, **more}
            text = json.dumps(said | {LABELS: {**self._labels, "process": process}})
        self._put(f"{text}\n")

    def pass_through(self, lines: IO[str] | None) -> threading.Thread:
        """Write the lines of a process as they are, until it ends.

        There is one writer to standard output: what several write to a pipe is torn.
        """
        assert lines is not None

        def read() -> None:
            with lines:
                for text in lines:
                    self._put(text)

        thread = threading.Thread(target=read, daemon=True)
        thread.start()
        return thread

    def _put(self, text: str) -> None:
        with self._lock:
            self._stream.write(text)
            self._stream.flush()

    def install_excepthook(self, process: str) -> None:
        """Write what nobody catches, on whatever thread, as one line."""

        def write(
            kind: type[BaseException], error: BaseException | None, trace: TracebackType | None
        ) -> None:
            text = "".join(traceback.format_exception(kind, error, trace))
            self.write("CRITICAL", text.rstrip("\n"), process)

        sys.excepthook = write
        threading.excepthook = lambda told: write(told.exc_type, told.exc_value, told.exc_traceback)

    def info(self, message: str) -> None:
        """Write what the entrypoint does."""
        self.write("INFO", message)

    def forward(self, line: LogRecord) -> None:
        """Write what TorchServe's processes said."""
        more: dict[str, object] = {"requests": list(line.requests)} if line.requests else {}
        if line.trace:
            more[TRACE] = line.trace
        self.write(line.severity, line.message, line.process, **more)


def _now() -> str:
    """Return the time as RFC 3339 has it, in UTC with microseconds."""
    return f"{datetime.now(UTC).replace(tzinfo=None).isoformat(timespec='microseconds')}Z"
