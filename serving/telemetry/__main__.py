"""Export the totals of nginx and the workers as metrics, and their events as traces.

python -m serving.telemetry --socket FD --run FOLDER --model '{"model": "digits", "version": "1.0"}'
"""

import argparse
import json
import logging
import os
import signal
import socket
import sys
from pathlib import Path
from typing import NoReturn

from prometheus_client import CollectorRegistry

from serving.logs import SEVERITIES, Log
from serving.telemetry import export, processes
from serving.telemetry.errors import EventError, ExportError
from serving.telemetry.events import parse_event
from serving.telemetry.metrics import TotalsReader, create_gauges
from serving.telemetry.tracing import RequestIdGenerator, SpanWriter

MAX_DATAGRAM_BYTES = 1 << 16
EXPORT_TIMEOUT_S = 2
"""How long the last metrics and traces may take."""
PROMETHEUS_SOCKET = "metrics.http"
"""The unix socket in the run folder that serves Prometheus's text."""

logger = logging.getLogger(__name__)


class LogHandler(logging.Handler):
    """Writes the records of Python's logging to the container's log."""

    def __init__(self, log: Log) -> None:
        super().__init__()
        self._log = log

    def emit(self, record: logging.LogRecord) -> None:
        """Write a record."""
        severity = record.levelname if record.levelname in SEVERITIES else "INFO"
        self._log.write(severity, self.format(record), "telemetry")


def receive_events(receiver: socket.socket, writer: SpanWriter) -> NoReturn:
    """Record each event, until a signal raises SystemExit."""
    while True:
        try:
            writer.record(parse_event(receiver.recv(MAX_DATAGRAM_BYTES)))
        except EventError as error:
            logger.warning("%s", error)
        except Exception:  # one event must not end the process: the next ones would be lost
            logger.exception("an event could not be recorded")


def run(args: argparse.Namespace) -> None:
    """Run until SIGTERM; raise ExportError."""
    model: dict[str, str] = json.loads(args.model)
    receiver = socket.socket(fileno=args.socket)
    inode = os.fstat(args.socket).st_ino
    totals = TotalsReader(
        run=args.run,
        workers=args.workers,
        since_ns=args.since_ns,
        dropped_datagrams=lambda: processes.dropped_datagrams(inode),
    )
    registry = CollectorRegistry() if args.prometheus else None
    resource, ids = export.build_resource(model), RequestIdGenerator()
    meters = export.build_meter_provider(resource, registry, totals.read)
    tracers = export.build_tracer_provider(resource, ids)
    is_ready = (args.run / "ready").exists
    create_gauges(meters.get_meter("serving"), model, is_ready, processes.memory_bytes)
    if registry is not None:
        export.serve_prometheus(registry, args.run / PROMETHEUS_SOCKET)
    try:
        if tracers:
            receive_events(receiver, SpanWriter(tracers, ids))
        signal.pause()
    finally:
        if tracers:
            tracers.shutdown()
        meters.shutdown(EXPORT_TIMEOUT_S * 1000)


def main() -> None:
    """Parse the options and run; exit with 1 if nothing can be exported."""
    parser = argparse.ArgumentParser(
        prog="python -m serving.telemetry",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    add = parser.add_argument
    add("--socket", type=int, required=True, help="file descriptor of a UDP socket")
    add("--run", type=Path, required=True, help="the container's run folder")
    add("--model", required=True, help="the model's labels, as JSON")
    add("--workers", type=int, required=True, help="workers of the container's layout")
    add("--since-ns", type=int, required=True, help="the container's start, in ns since 1970")
    add("--prometheus", action="store_true", help=f"serve metrics on RUN/{PROMETHEUS_SOCKET}")
    add("--log", default='{"as_text": true}', help="the log's settings, as JSON")
    args = parser.parse_args()
    log = Log()
    log.configure(**json.loads(args.log))
    log.install_excepthook("telemetry")
    logging.basicConfig(handlers=[LogHandler(log)], level="WARNING", format="%(name)s: %(message)s")
    signal.signal(signal.SIGTERM, lambda *_: sys.exit())
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C: the entrypoint sends SIGTERM later
    try:
        run(args)
    except ExportError as error:
        log.write("ERROR", str(error), "telemetry")
        sys.exit(1)


if __name__ == "__main__":
    main()
