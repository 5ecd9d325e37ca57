"""`make serve` stops TorchServe at any time that a signal arrives, and gives reasons."""

import signal
from collections.abc import Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from serving import java, local
from serving.artifact import Artifact
from serving.logs import LogRecord
from serving.probe import ProbeResult
from serving.worker_failures import WorkerFailures


@pytest.fixture
def handlers() -> Iterator[None]:
    """Handle signals as the program does; restore the handlers afterwards."""
    before = {stop: signal.signal(stop, signal.default_int_handler) for stop in local.STOP_SIGNALS}
    yield
    for number, handler in before.items():
        signal.signal(number, handler)


@pytest.mark.usefixtures("handlers")
@pytest.mark.parametrize("number", local.STOP_SIGNALS)
def test_signal_during_the_start_of_java_stops_it(
    number: signal.Signals, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    stopped = []

    class Starting:
        def __init__(self, *_: object) -> None:
            signal.raise_signal(number)

        def stop(self) -> None:
            stopped.append(self)

    def no_wait(*_: object) -> None:
        pytest.fail("the signal was lost")

    monkeypatch.setattr(java, "find", lambda: java.Java("java", 21, "a test"))
    monkeypatch.setattr(local, "Server", Starting)
    monkeypatch.setattr(local, "wait_until_ready", no_wait)
    served = Artifact(tmp_path, golden_request=None)
    config = local.configure(served, "http://127.0.0.1:9", tmp_path)
    with pytest.raises(KeyboardInterrupt), local.start_server(config, None):
        pass
    assert len(stopped) == 1


def test_time_out_at_the_start_has_the_reason_in_the_log(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(local, "STARTUP_TIMEOUT_S", -1)
    server: Any = SimpleNamespace(process=SimpleNamespace(poll=lambda: None))
    server.failures = WorkerFailures()
    server.failures.record(LogRecord("ERROR", "cannot serve this archive: a reason", "worker"))
    with pytest.raises(local.ServerError, match=r"was not ready within -1 s: a reason$"):
        local.wait_until_ready(server, lambda _: ProbeResult(False, "503"))


@pytest.mark.parametrize(
    ("name", "expected"), [("SERVICE_ENVELOPE", "json or none"), ("WRAP_INSTANCES", "data")]
)
def test_unknown_value_of_a_variable_for_stock_archives_is_an_error(
    name: str, expected: str
) -> None:
    local.check_stock_variables({name: ""})
    with pytest.raises(local.ServerError, match=f"{name}=other: expected {expected}"):
        local.check_stock_variables({name: "other"})
