"""The supervision of nginx and TorchServe: readiness, and the faults that end the container."""

import subprocess
import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import Protocol

from serving import probe, resources
from serving.container.errors import StartupError, describe_exit
from serving.container.models import Model
from serving.container.telemetry import TelemetryProcess
from serving.logs import Log
from serving.torchserve import Server
from serving.torchserve_config import DEFAULT_RESPONSE_TIMEOUT_S

STARTUP_TIMEOUT_S = 1200
"""How long a model may take until its first healthy probe."""
UNRESPONSIVE_TIMEOUT_S = 120
"""How long a model may fail its probes after that."""
PROBE_INTERVAL_S = 5
RETRY_INTERVAL_S = 0.05
"""Until the first healthy probe; a probe that fails at once has found no server yet."""
PROBE_TIMEOUT_S = 2 * PROBE_INTERVAL_S
MAX_FAILED_PROBES = 1
"""One probe may fail under load; a second one means that clients get no response either."""


class ModelError(StartupError):
    """A model cannot be served, or its TorchServe has ended."""


class Readiness(Protocol):
    """Whether nginx accepts predictions of a model."""

    process: "subprocess.Popen[str]"
    """nginx."""

    @property
    def is_ready(self) -> bool:
        """Whether predictions are accepted."""
        ...

    def set_ready(self) -> None:
        """Accept predictions."""
        ...

    def set_unavailable(self) -> None:
        """Answer 503."""
        ...


@dataclass(frozen=True, kw_only=True)
class Supervisor:
    """Probes a model and sets its readiness."""

    nginx: Readiness
    server: Server
    probe: Callable[[float], probe.ProbeResult]
    """Takes a timeout in seconds."""
    log: Log
    telemetry: TelemetryProcess | None
    prefix: str = ""
    """Of log lines; names the model if there are several."""
    extra_timeout_s: int = 0
    """How much longer than the default a response may take. Probes that time out count only after this time."""

    def run(self) -> None:
        """Accept predictions as long as the model is healthy; raise StartupError when it fails."""
        unready_since = healthy_at = time.monotonic()
        timeout_s, failed_probes = STARTUP_TIMEOUT_S, 0
        while True:
            self._check_processes()
            result = self.probe(PROBE_TIMEOUT_S)
            now = time.monotonic()
            if result.healthy:
                if not self.nginx.is_ready:
                    self.log.info(f"{self.prefix}ready after {now - unready_since:.1f} s")
                    self.nginx.set_ready()
                self.server.failures.reset()
                healthy_at, timeout_s, failed_probes = now, UNRESPONSIVE_TIMEOUT_S, 0
            else:
                failed_probes += 1
                unhealthy_s = now - healthy_at
                extra_s = self.extra_timeout_s if result.is_timeout else 0
                is_failing = failed_probes > MAX_FAILED_PROBES and unhealthy_s > extra_s
                if is_failing and self.nginx.is_ready:
                    self.nginx.set_unavailable()
                    unready_since = now
                    self.log.info(f"{self.prefix}not ready: {result.detail}")
                self._check_model(unhealthy_s, timeout_s + extra_s)
            self._wait(PROBE_INTERVAL_S if self.nginx.is_ready else RETRY_INTERVAL_S)

    def _wait(self, seconds: float) -> None:
        """Wait for the next probe; raise StartupError if a process ends meanwhile."""
        deadline = time.monotonic() + seconds
        while time.monotonic() < deadline:
            self._check_processes()
            if self.telemetry:
                self.telemetry.supervise()
            time.sleep(min(seconds, 0.1))

    def _check_processes(self) -> None:
        if self.nginx.process.poll() is not None:
            raise StartupError(f"nginx {describe_exit(self.nginx.process.returncode)}")
        if self.server.process.poll() is not None:
            code, reason = self.server.process.returncode, self.server.failures.cause
            text = f"TorchServe {describe_exit(code)}{f': {reason}' if reason else ''}"
            raise ModelError(_with_oom_kills(text))

    def _check_model(self, unhealthy_s: float, timeout_s: float) -> None:
        if self.server.failures.are_final:
            reason = _with_oom_kills(self.server.failures.reason)
            raise ModelError(f"the model cannot be loaded: {reason}")
        if unhealthy_s > timeout_s:
            reason = f": {cause}" if (cause := self.server.failures.cause) else ""
            raise ModelError(f"the model has not responded for {unhealthy_s:.0f} s{reason}")


def create_supervisor(
    model: Model,
    nginx: Readiness,
    server: Server,
    log: Log,
    telemetry: TelemetryProcess | None = None,
) -> Supervisor:
    """Return the supervisor of a model."""
    assert model.served is not None
    config, address = model.config, f"unix:{model.upstream.socket}"
    return Supervisor(
        nginx=nginx,
        server=server,
        probe=probe.create_probe(config, model.served.golden_request, address),
        log=log,
        telemetry=telemetry,
        prefix=model.label,
        extra_timeout_s=max(config.response_timeout_s - DEFAULT_RESPONSE_TIMEOUT_S, 0),
    )


def _with_oom_kills(reason: str) -> str:
    """Append the number of processes that Linux killed: those could not log a reason."""
    if not (killed := resources.oom_kills()):
        return reason
    processes = "1 process was" if killed == 1 else f"{killed} processes were"
    limit = (resources.memory_limit() or 0) >> 20
    return f"{reason}; {processes} killed (out of memory; the limit is {limit} MiB)"
