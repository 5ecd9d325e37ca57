"""The supervision of a container whose model does not answer its probes."""

import time
from types import SimpleNamespace
from typing import Any

import pytest

from serving.container import supervisor
from serving.container.errors import StartupError
from serving.logs import LogRecord
from serving.probe import ProbeResult
from serving.worker_failures import WorkerFailures

EXTRA_S = 1
END_S = 0.3


@pytest.mark.parametrize(
    ("detail", "extra_s"), [("TimeoutError: timed out", EXTRA_S), ("500 an error", 0)]
)
def test_busy_model_has_more_time_for_a_probe_if_responses_may_take_longer(
    detail: str, extra_s: float, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(supervisor, "PROBE_INTERVAL_S", 0.01)
    monkeypatch.setattr(supervisor, "UNRESPONSIVE_TIMEOUT_S", END_S)
    state: dict[str, float] = {}
    nginx: Any = SimpleNamespace(process=SimpleNamespace(poll=lambda: None), is_ready=False)
    nginx.set_ready = lambda: setattr(nginx, "is_ready", True)

    def set_unavailable() -> None:
        nginx.is_ready, state["unavailable"] = False, time.monotonic()

    nginx.set_unavailable = set_unavailable
    server: Any = SimpleNamespace(process=nginx.process, failures=WorkerFailures())
    log: Any = SimpleNamespace(info=lambda _: None)
    results = [ProbeResult(True, "200")]
    started = time.monotonic()
    with pytest.raises(StartupError, match="the model has not responded"):
        supervisor.Supervisor(
            nginx=nginx,
            server=server,
            probe=lambda _: results.pop() if results else ProbeResult(False, detail),
            log=log,
            telemetry=None,
            extra_timeout_s=EXTRA_S,
        ).run()
    assert extra_s <= state["unavailable"] - started < extra_s + END_S
    assert extra_s + END_S <= time.monotonic() - started < extra_s + END_S + 1


def test_time_out_at_the_start_has_the_reason_in_the_log(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(supervisor, "STARTUP_TIMEOUT_S", -1)
    process = SimpleNamespace(poll=lambda: None)
    nginx: Any = SimpleNamespace(process=process, is_ready=False)
    server: Any = SimpleNamespace(process=process, failures=WorkerFailures())
    server.failures.record(LogRecord("ERROR", "cannot serve this archive: a reason", "worker"))
    log: Any = SimpleNamespace(info=lambda _: None)
    with pytest.raises(StartupError, match=r"has not responded for 0 s: a reason$"):
        supervisor.Supervisor(
            nginx=nginx,
            server=server,
            probe=lambda _: ProbeResult(False, "503"),
            log=log,
            telemetry=None,
        ).run()
