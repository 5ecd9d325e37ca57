"""The front door: nginx, configured for the routes and the limits that hold here."""

import re
import resource
import signal
import subprocess
from pathlib import Path

from docker.config import Config
from serving.torchserve import Settings

NGINX = "/usr/sbin/nginx"
TEMPLATE = Path(__file__).with_name("nginx.conf")
BODY = Path(__file__).with_name("body.lua")
MOST_CONNECTIONS = 4096


def settings_text(config: Config, settings: Settings, socket: Path) -> str:
    """Fill in the template of nginx's configuration."""
    values = {
        "RUN": settings.run,
        "SOCKET": socket,
        "CONNECTIONS": min(MOST_CONNECTIONS, resource.getrlimit(resource.RLIMIT_NOFILE)[0]),
        "PORT": config.port,
        "BODY": BODY,
        "HEALTH": config.health,
        "PREDICT": config.predict_said,
        "PREDICT_LOCATION": '~ "^/."' if config.invoke else f'= "{config.predict}"',
        "MODEL": settings.model,
        "LARGEST_REQUEST": config.largest_request,
        "MOST_AT_ONCE": settings.queue * 3 // 4,
        "MOST_LARGE_AT_ONCE": settings.room_for(config.largest_request),
        "MOST_MEDIUM_AT_ONCE": settings.room_for(1_000_000),
        "TIMEOUT": settings.response_timeout_s + 5,
        "LOGGED": int(config.access_log),
    }
    return re.sub(r"@([A-Z_]+)@", lambda match: str(values[match[1]]), TEMPLATE.read_text())


class Front:
    """A running nginx. Its doors answer 503 until they are opened."""

    def __init__(self, config: Config, settings: Settings, socket: Path) -> None:
        """Start it."""
        file = settings.run / "nginx.conf"
        file.write_text(settings_text(config, settings, socket))
        self._ready = settings.run / "ready"
        self._stopping = settings.run / "stopping"
        self.process = subprocess.Popen([NGINX, "-e", "stderr", "-c", str(file)])

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
        try:
            self.process.wait(within_s)
        except subprocess.TimeoutExpired:
            self.process.kill()
