"""nginx: the container's only public server. Starts, configures and stops it."""

import os
import re
import signal
import subprocess
import threading
import time
from collections.abc import Sequence

from serving.container.config import Config
from serving.container.errors import StartupError
from serving.container.nginx_config import Upstream, build_config
from serving.logs import Log
from serving.torchserve import wait_or_kill

START_TIMEOUT_S = 10
SEVERITY = {"debug": "DEBUG", "info": "INFO", "notice": "INFO", "warn": "WARNING", "error": "ERROR"}
"""The severity of each level of nginx's error log; of any other level: CRITICAL."""
ERROR_LINE = re.compile(r"\d{4}/\d\d/\d\d \d\d:\d\d:\d\d \[(\w+)\] \d+#\d+: (.*)")


def _redact(text: str) -> str:
    """Remove the client's data from an error line, except the request's method and path."""
    message, client, request = text.rstrip("\n").partition(", client: ")
    if client:
        # Quoted text is a header's, unless it is a file's path.
        message = re.sub(r'"([^"]*)("|$)', lambda m: m[0] if m[1][:1] == "/" else '"..."', message)
    line = re.search(r'request: "([A-Z]{1,16})(?: (/[!->@-~]{0,500}))?', request)
    return f"{message} ({' '.join(filter(None, line.groups()))})" if line else message


class Nginx:
    """A running nginx. It answers 503 until `set_ready` is called."""

    def __init__(self, config: Config, upstreams: Sequence[Upstream], log: Log) -> None:
        """Start nginx; its error log is written to `log`. Raises ConfigError."""
        self._config = config
        folder = upstreams[0].config.container_dir
        self._file = folder / "nginx.conf"
        self._text = build_config(config, upstreams)
        self._file.write_text(self._text)
        self._pid_file = folder / "nginx.pid"
        self._ready = folder / "ready"
        self._draining = folder / "draining"
        self._log = log
        self.process = subprocess.Popen(
            ["nginx", "-e", "stderr", "-c", str(self._file)],
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
            errors="replace",
            env=os.environ | {"TZ": "UTC"},  # the log's times are in UTC
        )
        self._access_log = log.pass_through(self.process.stdout)
        threading.Thread(target=self._read_error_log, daemon=True).start()

    def _read_error_log(self) -> None:
        assert self.process.stderr is not None
        with self.process.stderr as lines:
            for text in lines:
                match = ERROR_LINE.match(text)
                severity = SEVERITY.get(match[1], "CRITICAL") if match else "WARNING"
                self._log.write(severity, _redact(match[2] if match else text), "nginx")

    def configure(self, upstreams: Sequence[Upstream]) -> None:
        """Configure nginx anew if the models or their times for a response are others than at its start.

        It starts before the model is fetched. Raises StartupError and ConfigError.
        """
        text = build_config(self._config, upstreams)
        if text == self._text:
            return
        deadline = time.monotonic() + START_TIMEOUT_S
        # Before it exists, nginx reads the file, and the signal would end it.
        while not self._pid_file.exists():
            if time.monotonic() > deadline or self.process.poll() is not None:
                raise StartupError(f"nginx has not started within {START_TIMEOUT_S} s")
            time.sleep(0.01)
        self._text = text
        self._file.write_text(text)
        self.process.send_signal(signal.SIGHUP)

    @property
    def is_ready(self) -> bool:
        """Whether predictions are accepted."""
        return self._ready.exists()

    def set_ready(self) -> None:
        """Accept predictions, and answer 200 on the health route."""
        self._ready.touch()

    def set_unavailable(self) -> None:
        """Answer 503 on both routes."""
        self._ready.unlink(missing_ok=True)

    def start_draining(self) -> None:
        """Answer 503 on the health route, and still accept predictions."""
        self._draining.touch()

    def stop(self, timeout_s: float) -> None:
        """Close the port, finish the requests in flight, and end."""
        self.process.send_signal(signal.SIGQUIT)
        wait_or_kill(self.process, timeout_s)
        self._access_log.join(1)
