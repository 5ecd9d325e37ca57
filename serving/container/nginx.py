"""The front door: nginx, configured for the routes and the limits that hold here."""

import json
import os
import re
import resource
import signal
import subprocess
import threading
from pathlib import Path

from serving.container.config import Config
from serving.logs import SEVERITIES, Log
from serving.torchserve import Settings, wait_or_kill

FILES = Path(__file__).resolve().parents[2] / "docker"
TEMPLATE = FILES / "nginx.conf"
METRICS = FILES / "metrics.conf"
BODY = FILES / "body.lua"
MAX_CONNECTIONS = 4096
ERROR_LOG = dict(zip(SEVERITIES, ("info", "warn", "warn", "error", "crit"), strict=True))
"""What nginx writes beside its access log, by LOG_LEVEL."""
LINE = re.compile(r"\d{4}/\d\d/\d\d \d\d:\d\d:\d\d \[(\w+)\] \d+#\d+: (.*)")
SEVERITY = {"debug": "DEBUG", "info": "INFO", "notice": "INFO", "warn": "WARNING", "error": "ERROR"}
"""Of what nginx says; what is not here is CRITICAL."""


def settings_text(config: Config, settings: Settings, socket: Path) -> str:
    """Fill in the template of nginx's configuration."""
    values = {
        "RUN": settings.run,
        "SOCKET": socket,
        "CONNECTIONS": min(MAX_CONNECTIONS, resource.getrlimit(resource.RLIMIT_NOFILE)[0]),
        "PORT": config.port,
        "BODY": BODY,
        "HEALTH": config.health,
        "PREDICT": config.predict_said,
        "PREDICT_LOCATION": '~ "^/."' if config.invoke else f'= "{config.predict}"',
        "MODEL": settings.model,
        "MAX_REQUEST_BYTES": config.largest_request,
        "MAX_REQUESTS": settings.queue * 3 // 4,
        "MAX_LARGE_REQUESTS": settings.room_for(config.largest_request),
        "MAX_MEDIUM_REQUESTS": settings.room_for(1_000_000),
        "TIMEOUT": settings.response_timeout_s + 5,
        "LOGGED": int(config.access_log),
        "LOG_FORMAT": "text" if config.log_text else "json",
        "LEAST": SEVERITIES.index(config.log_level),
        "ERROR_LOG": ERROR_LOG[config.log_level],
        "LABELS": json.dumps(dict(config.labels) | {"process": "front"}),
        "TRACES": config.traces,
        # What no caller began is found by the request's id, where there are traces at all.
        "UNTRACED": "$request_id" if config.otlp else "",
        "TOLD": _told(settings.telemetry),
        "SENT": "$msec" if settings.telemetry else "",
        "METRICS_PORT": config.metrics_port or "",
    }
    text = TEMPLATE.read_text()
    metrics = METRICS.read_text() if config.metrics_port else ""
    text = text.replace("@METRICS@\n", metrics)
    return re.sub(r"@([A-Z_]+)@", lambda match: str(values[match[1]]), text)


def _told(port: int | None) -> str:
    """Return the setting by which nginx tells of each answer; UDP, so that it never waits."""
    if port is None:
        return ""
    return f"access_log syslog:server=127.0.0.1:{port},nohostname,tag=front told if=$told;"


def _without_what_was_sent(text: str) -> str:
    """Of what nginx tells of a request leave its method and path."""
    said, about, request = text.rstrip("\n").partition(", client: ")
    if about:
        # What it quotes are headers, but for names of files.
        said = re.sub(r'"([^"]*)("|$)', lambda m: m[0] if m[1][:1] == "/" else '"..."', said)
    line = re.search(r'request: "([A-Z]{1,16})(?: (/[!->@-~]{0,500}))?', request)
    return f"{said} ({' '.join(filter(None, line.groups()))})" if line else said


class Front:
    """A running nginx. Its doors answer 503 until they are opened."""

    def __init__(self, config: Config, settings: Settings, socket: Path, log: Log) -> None:
        """Start it; `log` is written what it says beside its access log."""
        file = settings.run / "nginx.conf"
        file.write_text(settings_text(config, settings, socket))
        self._ready = settings.run / "ready"
        self._stopping = settings.run / "stopping"
        self._log = log
        self.process = subprocess.Popen(
            ["nginx", "-e", "stderr", "-c", str(file)],
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
            errors="replace",
            env=os.environ | {"TZ": "UTC"},  # its lines say so
        )
        self._lines = log.pass_through(self.process.stdout)
        threading.Thread(target=self._read, daemon=True).start()

    def _read(self) -> None:
        assert self.process.stderr is not None
        with self.process.stderr as said:
            for text in said:
                match = LINE.match(text)
                severity = SEVERITY.get(match[1], "CRITICAL") if match else "WARNING"
                self._log.write(
                    severity, _without_what_was_sent(match[2] if match else text), "front"
                )

    @property
    def is_open(self) -> bool:
        """Whether predictions are let in."""
        return self._ready.exists()

    def open(self) -> None:
        """Let predictions in, and say that all is well."""
        self._ready.touch()

    def close(self) -> None:
        """Let nothing in, and say that the model is unavailable."""
        self._ready.unlink(missing_ok=True)

    def take_leave(self) -> None:
        """Say that the container is unavailable, and still let predictions in."""
        self._stopping.touch()

    def stop(self, within_s: float) -> None:
        """Answer what is under way, let nothing new in, and end."""
        self.process.send_signal(signal.SIGQUIT)
        wait_or_kill(self.process, within_s)
        self._lines.join(1)
