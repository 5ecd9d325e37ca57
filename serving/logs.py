"""Parse the log lines of TorchServe's processes, and write the container's log.

Each line is a JSON object with Cloud Logging's fields, or text. Callers must keep the contents of
requests out of their messages.
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
    """One log record of one of TorchServe's processes."""

    severity: str
    """One of SEVERITIES."""
    message: str
    """Includes the traceback, if there is one."""
    process: str
    """torchserve (Java) or worker (a process that runs the model)."""
    requests: tuple[str, ...] = ()
    """The IDs of the requests that the worker was processing."""
    trace: str = ""
    """The trace of these requests, if they have one in common."""

    def __str__(self) -> str:
        """Return the record as text."""
        return f"{self.severity} {self.process}: {self.message}"


def parse_line(text: str) -> LogRecord:
    """Parse a line of Java's standard output, which also contains the workers' lines.

    serving/log4j2.xml makes Java write JSON; before it is loaded, Java writes text.
    """
    fields = _parse_object(text)
    if fields is None or "message" not in fields:
        return LogRecord("INFO", text, "torchserve")
    severity, message = str(fields.get("severity")), str(fields["message"])
    severity = severity if severity in SEVERITIES else "INFO"
    if fields.get("logger") != "MODEL_LOG":
        return LogRecord(severity, message, "torchserve")
    # A handler may print anything, including JSON.
    own = _parse_object(message) or {}
    if own.get("severity") not in SEVERITIES or not isinstance(own.get("requests"), list):
        return LogRecord(severity, message, "worker")
    requests = tuple(str(request) for request in own["requests"])
    trace = str(own.get("trace", ""))
    return LogRecord(own["severity"], str(own.get("message")), "worker", requests, trace)


def _parse_object(text: str) -> dict[str, Any] | None:
    if not text.startswith("{"):
        return None
    try:
        document = json.loads(text)
    except (ValueError, RecursionError):
        return None
    return document if isinstance(document, dict) else None


class Log:
    """Writes log lines to a stream; safe for threads."""

    def __init__(self, *, as_text: bool = False, stream: TextIO | None = None) -> None:
        """Write text or JSON to a stream, by default standard output."""
        self._stream, self._lock = stream or sys.stdout, threading.Lock()
        self.configure(as_text=as_text)

    def configure(
        self, *, as_text: bool, level: str = "INFO", labels: Mapping[str, str] | None = None
    ) -> None:
        """Set the format, the minimum severity and the labels of each JSON line."""
        self._as_text, self._min_rank = as_text, SEVERITIES.index(level)
        self._labels = dict(labels or {})

    def write(
        self,
        severity: str,
        message: str,
        process: str = "entrypoint",
        model: str = "",
        **fields: object,
    ) -> None:
        """Write a line; `model` is one of several, `fields` are added to a JSON line."""
        if severity in SEVERITIES and SEVERITIES.index(severity) < self._min_rank:
            return
        if self._as_text:
            source = f"{process} of {model}" if model else process
            prefix = "" if process == "entrypoint" else f"{source}: "
            text = f"{time.strftime('%H:%M:%S')} {severity:7} {prefix}{message}"
        else:
            line = {"severity": severity, "time": _format_now(), "message": message, **fields}
            labels = {**self._labels, "process": process} | ({"model": model} if model else {})
            text = json.dumps(line | {LABELS: labels})
        self._write_line(f"{text}\n")

    def pass_through(self, lines: IO[str] | None) -> threading.Thread:
        """Copy the lines of a process, from a thread, until it ends.

        Only this process writes to standard output: lines of several writers would be mixed.
        """
        assert lines is not None

        def read() -> None:
            with lines:
                for text in lines:
                    self._write_line(text)

        thread = threading.Thread(target=read, daemon=True)
        thread.start()
        return thread

    def _write_line(self, text: str) -> None:
        with self._lock:
            self._stream.write(text)
            self._stream.flush()

    def install_excepthook(self, process: str) -> None:
        """Write the uncaught exceptions of all threads, each as one line."""

        def write(
            kind: type[BaseException], error: BaseException | None, trace: TracebackType | None
        ) -> None:
            text = "".join(traceback.format_exception(kind, error, trace))
            self.write("CRITICAL", text.rstrip("\n"), process)

        sys.excepthook = write
        threading.excepthook = lambda args: write(args.exc_type, args.exc_value, args.exc_traceback)

    def info(self, message: str) -> None:
        """Write a message of the entrypoint."""
        self.write("INFO", message)

    def forward(self, record: LogRecord, model: str = "") -> None:
        """Write a record of one of TorchServe's processes; `model` is one of several."""
        fields: dict[str, object] = {"requests": list(record.requests)} if record.requests else {}
        if record.trace:
            fields[TRACE] = record.trace
        self.write(record.severity, record.message, record.process, model, **fields)


def _format_now() -> str:
    """Return the time in UTC with microseconds, in RFC 3339's format."""
    return f"{datetime.now(UTC).replace(tzinfo=None).isoformat(timespec='microseconds')}Z"
