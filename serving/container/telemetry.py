"""The telemetry process: started with the container, restarted if it ends."""

import json
import os
import socket
import subprocess
import sys
import time
from collections.abc import Sequence

from serving.container.config import Config
from serving.container.models import Model, join_names
from serving.logs import Log
from serving.stock import manifest
from serving.torchserve import wait_or_kill

BUFFER_BYTES = 4 << 20
"""The socket's receive buffer; Linux limits it to net.core.rmem_max."""
MIN_RESTART_DELAY_S, MAX_RESTART_DELAY_S = 10, 600
"""The delay doubles with each restart."""


class TelemetryProcess:
    """The telemetry process and its UDP socket, which stays open when the process is restarted."""

    def __init__(self, config: Config, log: Log) -> None:
        """Open the socket."""
        self._config, self._log = config, log
        self._socket = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
        self._socket.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, BUFFER_BYTES)
        self._socket.bind(("127.0.0.1", 0))
        self._process: subprocess.Popen[str] | None = None
        self._created_ns, self._started_at, self._ended_at = time.time_ns(), 0.0, 0.0
        self._restart_delay_s = MIN_RESTART_DELAY_S / 2

    @property
    def port(self) -> int | None:
        """The UDP port on loopback that receives events; None if no traces are exported."""
        return self._socket.getsockname()[1] if self._config.trace_sampler else None

    def start(self, models: Sequence[Model]) -> None:
        """Start the process; the totals are those of all models together."""
        paths = [model.config.archive for model in models]
        versions = [manifest.read_manifest(path).version for path in paths]
        self._model = {"model": join_names(models), "version": ",".join(versions)}
        self._run_dir = models[0].config.container_dir
        self._workers = sum(model.config.layout.workers for model in models)
        self._start()

    def supervise(self) -> None:
        """Log the end of the process; restart it after the delay."""
        if self._process is None:
            if self._ended_at and time.monotonic() - self._ended_at > self._restart_delay_s:
                self._start()
        elif (code := self._process.poll()) is not None:
            self._process, self._ended_at = None, time.monotonic()
            if self._ended_at - self._started_at > MAX_RESTART_DELAY_S:
                self._restart_delay_s = MIN_RESTART_DELAY_S
            else:
                self._restart_delay_s = min(2 * self._restart_delay_s, MAX_RESTART_DELAY_S)
            self._log.write(
                "ERROR",
                f"telemetry exited with code {code}; restarting in {self._restart_delay_s:.0f} s; "
                "predictions are not affected",
            )

    def _start(self) -> None:
        labels = dict(self._config.labels)
        model = self._model | labels
        log = {
            "as_text": self._config.log_format == "text",
            "level": self._config.log_level,
            "labels": labels,
        }
        self._started_at, fd = time.monotonic(), self._socket.fileno()
        self._process = subprocess.Popen(
            [
                *(sys.executable, "-m", "serving.telemetry"),
                f"--socket={fd}",
                f"--run={self._run_dir}",
                f"--model={json.dumps(model)}",
                f"--workers={self._workers}",
                f"--since-ns={self._created_ns}",
                f"--log={json.dumps(log)}",
                *(["--prometheus"] if self._config.metrics_port else []),
            ],
            pass_fds=[fd],
            env=os.environ
            | {
                "OTEL_TRACES_SAMPLER": self._config.trace_sampler or "",
                "OTEL_TRACES_SAMPLER_ARG": str(self._config.trace_share),
            },
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            text=True,
            errors="replace",
        )
        self._output = self._log.pass_through(self._process.stdout)

    def terminate(self) -> None:
        """Ask the process to send its last metrics and end."""
        if self._process is not None:
            self._process.terminate()

    def stop(self, timeout_s: float) -> None:
        """Wait for the process to end, and close the socket."""
        if self._process is not None:
            wait_or_kill(self._process, timeout_s)
            self._output.join(1)
        self._socket.close()
