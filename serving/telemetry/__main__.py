"""Take in what the front door and the workers tell until told to stop; tell it on.

python -m serving.telemetry --socket FD --run FOLDER --about '{"model": "digits", "version": "1.0"}'
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
from serving.telemetry import events, export, processes
from serving.telemetry.metrics import Gauges, Instruments
from serving.telemetry.tracing import Ids, Spans

LARGEST = 1 << 16
"""Bytes of a datagram."""
END_S = 2
"""How long the last metrics and traces may take."""
TEXT = "metrics.http"
"""The socket in the folder on which Prometheus's text is served."""

log = logging.getLogger(__name__)


class Lines(logging.Handler):
    """What OpenTelemetry's own code has to say, as lines of the container's log."""

    def __init__(self, log: Log) -> None:
        super().__init__()
        self._log = log

    def emit(self, record: logging.LogRecord) -> None:
        """Write a line."""
        severity = record.levelname if record.levelname in SEVERITIES else "INFO"
        self._log.write(severity, self.format(record), "telemetry")


def listen(wire: socket.socket, *takers: Instruments | Spans) -> NoReturn:
    """Take in facts until a signal raises SystemExit."""
    while True:
        try:
            fact = events.read(wire.recv(LARGEST))
            for taker in takers:
                taker.take(fact)
        except events.EventError as error:
            log.warning("%s", error)
        except Exception:  # one datagram must not end it: those after it would be lost
            log.exception("a datagram could not be taken in")


def run(args: argparse.Namespace) -> None:
    """Run until told to stop; raise NotExported."""
    about: dict[str, str] = json.loads(args.about)
    wire = socket.socket(fileno=args.socket)
    inode = os.fstat(args.socket).st_ino
    looks = Gauges(processes.memory, (args.run / "ready").exists, lambda: processes.dropped(inode))
    registry = CollectorRegistry() if args.prometheus else None
    resource, ids = export.resource(about), Ids()
    meters = export.meters(resource, registry)
    tracers = export.tracers(resource, ids)
    instruments = Instruments(meters.get_meter("serving"), about, args.workers, looks)
    if registry is not None:
        export.serve(registry, args.run / TEXT)
    try:
        listen(wire, instruments, *([Spans(tracers, ids)] if tracers else []))
    finally:
        if tracers:
            tracers.shutdown()
        meters.shutdown(END_S * 1000)


def main() -> None:
    """Run the command line."""
    parser = argparse.ArgumentParser(
        prog="python -m serving.telemetry",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("--socket", type=int, required=True, help="an open UDP socket's descriptor")
    parser.add_argument("--run", type=Path, required=True, help="the container's own folder")
    parser.add_argument("--about", required=True, help="the model's labels, as JSON")
    parser.add_argument(
        "--workers", type=int, default=0, help="that are yet to start (%(default)s)"
    )
    parser.add_argument("--prometheus", action="store_true", help=f"serve text on RUN/{TEXT}")
    parser.add_argument("--log", default='{"human": true}', help="how to write lines, as JSON")
    args = parser.parse_args()
    lines = Log()
    lines.configure(**json.loads(args.log))
    lines.install_excepthook("telemetry")
    logging.basicConfig(handlers=[Lines(lines)], level="WARNING")
    signal.signal(signal.SIGTERM, lambda *_: sys.exit())
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # a terminal's Ctrl-C: the entrypoint tells us
    try:
        run(args)
    except export.ExportError as error:
        lines.write("ERROR", str(error), "telemetry")
        sys.exit(1)


if __name__ == "__main__":
    main()
