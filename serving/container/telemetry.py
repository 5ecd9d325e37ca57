"""The process that is told how the server fares (telemetry/), for as long as the container lives."""

import json
import socket
import subprocess
import sys
import time

from serving.container.config import Config
from serving.logs import Log
from serving.torchserve import Settings, wait_or_kill

BUFFER = 4 << 20
"""Bytes of datagrams that may wait; Linux gives what net.core.rmem_max allows."""
AGAIN_S, MOST_S = 10, 600
"""How long it stays away where it ended by itself, the first time and at most: it doubles."""


class Telemetry:
    """A process that is started again where it ends; its socket stays open, and its port the same."""

    def __init__(self, config: Config, log: Log) -> None:
        """Open the socket."""
        self._config, self._log = config, log
        self._wire = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
        self._wire.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, BUFFER)
        self._wire.bind(("127.0.0.1", 0))
        self._process: subprocess.Popen[str] | None = None
        self._began = self._ended = 0.0
        self._pause = AGAIN_S / 2

    @property
    def port(self) -> int:
        """The UDP port on loopback that it is told on."""
        port: int = self._wire.getsockname()[1]
        return port

    def start(self, settings: Settings, version: str) -> None:
        """Start it; of the workers none has started yet."""
        self._settings, self._version = settings, version
        self._start(settings.layout.workers)

    def see(self) -> None:
        """Start it again where it ended a while ago; say so where it just did."""
        if self._process is None:
            if self._ended and time.monotonic() - self._ended > self._pause:
                self._start(0)
        elif (code := self._process.poll()) is not None:
            self._process, self._ended = None, time.monotonic()
            lived = self._ended - self._began
            self._pause = AGAIN_S if lived > MOST_S else min(2 * self._pause, MOST_S)
            again = f"it starts again in {self._pause:.0f} s"
            self._log.write("ERROR", f"telemetry ended with {code}; {again}. Predictions go on")

    def _start(self, workers: int) -> None:
        labels = dict(self._config.labels)
        about = {"model": self._settings.model, "version": self._version} | labels
        lines = {"human": self._config.log_text, "level": self._config.log_level, "labels": labels}
        self._began, fd = time.monotonic(), self._wire.fileno()
        self._process = subprocess.Popen(
            [
                *(sys.executable, "-m", "serving.telemetry"),
                f"--socket={fd}",
                f"--run={self._settings.run}",
                f"--about={json.dumps(about)}",
                f"--workers={workers}",
                f"--log={json.dumps(lines)}",
                *(["--prometheus"] if self._config.metrics_port else []),
            ],
            pass_fds=[fd],
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            text=True,
            errors="replace",
        )
        self._lines = self._log.pass_through(self._process.stdout)

    def tell_to_stop(self) -> None:
        """Let it send what it has."""
        if self._process is not None:
            self._process.terminate()

    def stop(self, within_s: float) -> None:
        """End it."""
        if self._process is not None:
            wait_or_kill(self._process, within_s)
            self._lines.join(1)
        self._wire.close()
