"""nginx: the container's only public server. Writes its configuration, starts and stops it."""

import json
import os
import re
import resource
import signal
import subprocess
import threading
import time
from pathlib import Path

from serving import resources
from serving.container.config import DEFAULT_SAMPLER, Config
from serving.container.errors import StartupError
from serving.logs import SEVERITIES, Log
from serving.torchserve import TorchServeConfig, wait_or_kill
from serving.worker.serving_worker.totals import SECONDS

FILES = Path(__file__).resolve().parents[2] / "docker"
TEMPLATE = FILES / "nginx.conf"
METRICS_TEMPLATE = FILES / "metrics.conf"
TORCHSERVE_TEMPLATE = FILES / "torchserve.conf"
WORKER_MARK_TEMPLATE = FILES / "worker_mark.conf"
BODY_SCRIPT = FILES / "body.lua"
REQUESTS_SCRIPT = FILES / "requests.lua"
MAX_REQUESTS = 192
"""Requests that are answered or wait for a worker; more get a 429. Less than TorchServe's queue and the
backlog of the listening socket, so that the entrypoint's probe always finds room."""
MAX_LARGE_BYTES_SHARE = 8
"""The part of the memory that the bodies of large requests may take together: one in this many bytes."""
MAX_CONNECTIONS = 4096
START_TIMEOUT_S = 10
UNLIMITED_BYTES = 8 << 30
"""What is taken for the memory of a container without a limit."""
ERROR_LOG_LEVELS = dict(zip(SEVERITIES, ("info", "warn", "warn", "error", "crit"), strict=True))
"""The level of nginx's error log for each LOG_LEVEL."""
SEVERITY = {"debug": "DEBUG", "info": "INFO", "notice": "INFO", "warn": "WARNING", "error": "ERROR"}
"""The severity of each level of nginx's error log; of any other level: CRITICAL."""
ERROR_LINE = re.compile(r"\d{4}/\d\d/\d\d \d\d:\d\d:\d\d \[(\w+)\] \d+#\d+: (.*)")


def build_config(config: Config, server_config: TorchServeConfig, socket: Path) -> str:
    """Return nginx.conf; `socket` is that of the workers or of TorchServe."""
    is_direct = server_config.listener_socket is not None
    memory = resources.memory_limit() or UNLIMITED_BYTES
    values = {
        "RUN": server_config.run_dir,
        "SOCKET": socket,
        "CONNECTIONS": min(MAX_CONNECTIONS, resource.getrlimit(resource.RLIMIT_NOFILE)[0]),
        "PORT": config.port,
        "BODY_SCRIPT": BODY_SCRIPT,
        "HEALTH_ROUTE": config.health_route,
        "PREDICT_ROUTE": "/*" if config.any_route else config.predict_route,
        "PREDICT_LOCATION": '~ "^/."' if config.any_route else f'= "{config.predict_route}"',
        "MODEL": server_config.model_name,
        "MAX_REQUEST_BYTES": config.max_request_bytes,
        "MAX_REQUESTS": MAX_REQUESTS,
        "MAX_LARGE_REQUESTS": max(memory // MAX_LARGE_BYTES_SHARE // config.max_request_bytes, 1),
        "TIMEOUT_S": server_config.response_timeout_s,
        "KEEPALIVE": "" if is_direct else "keepalive 64;",
        "LOG_ALL": int(config.log_all_requests),
        "LOG_FORMAT": config.log_format,
        "MIN_RANK": SEVERITIES.index(config.log_level),
        "ERROR_LOG_LEVEL": ERROR_LOG_LEVELS[config.log_level],
        "LABELS": json.dumps(dict(config.labels) | {"process": "nginx"}),
        "TRACE_PREFIX": config.trace_prefix,
        # A request without a trace gets its own ID as the trace's, if traces are exported.
        "DEFAULT_TRACE_ID": "$request_id" if config.trace_sampler else "",
        "EVENT_LOG": _event_log(server_config.telemetry_port),
        "SAMPLED": {None: "", DEFAULT_SAMPLER: "$is_sampled"}.get(config.trace_sampler, "1"),
        "SAMPLED_BYTES": _sampled_bytes(config.trace_share or 0),
        "REQUESTS_SCRIPT": REQUESTS_SCRIPT,
        "SECONDS": ",".join(map(str, SECONDS)),
        "LOG_PHASE": "log_by_lua_block { record_request() }" if config.has_telemetry else "",
        "SENT_TIME": "$msec" if config.has_telemetry else "",
        "METRICS_PORT": config.metrics_port or "",
    }
    text = TEMPLATE.read_text()
    metrics = METRICS_TEMPLATE.read_text() if config.metrics_port else ""
    text = text.replace("@METRICS@\n", metrics)
    path = "" if is_direct else TORCHSERVE_TEMPLATE.read_text()
    if not is_direct and server_config.patched:
        path += WORKER_MARK_TEMPLATE.read_text()
    text = text.replace("@REQUEST_PATH@\n", path)
    return re.sub(r"@([A-Z_]+)@", lambda match: str(values[match[1]]), text)


def _event_log(port: int | None) -> str:
    """Return the directive that sends an event for each response; over UDP, so nginx never waits."""
    if port is None:
        return ""
    return f"access_log syslog:server=127.0.0.1:{port},nohostname,tag=nginx event if=$has_event;"


def _sampled_bytes(share: float) -> str:
    """Return a pattern for the first of the bytes of an ID by which the default sampler decides.

    It selects up to 1/256 more requests than the sampler does.
    """
    return "|".join(f"{byte:02x}" for byte in range(min(int(share * 256) + 1, 256)))


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

    def __init__(
        self, config: Config, server_config: TorchServeConfig, socket: Path, log: Log
    ) -> None:
        """Start nginx; its error log is written to `log`."""
        self._config, self._socket = config, socket
        self._file = server_config.run_dir / "nginx.conf"
        self._text = build_config(config, server_config, socket)
        self._file.write_text(self._text)
        self._pid_file = server_config.run_dir / "nginx.pid"
        self._ready = server_config.run_dir / "ready"
        self._draining = server_config.run_dir / "draining"
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

    def set_timeout(self, server_config: TorchServeConfig) -> None:
        """Configure nginx anew if the time for a response has changed: it starts before the model is fetched.

        Raises StartupError.
        """
        text = build_config(self._config, server_config, self._socket)
        if text == self._text:
            return
        deadline = time.monotonic() + START_TIMEOUT_S
        # Before it exists, nginx reads the file, and the signal would end it.
        while not self._pid_file.exists():
            if time.monotonic() > deadline or self.process.poll() is not None:
                raise StartupError(f"nginx has not started within {START_TIMEOUT_S} s")
            time.sleep(0.01)
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
