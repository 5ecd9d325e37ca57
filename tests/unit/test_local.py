"""`make serve` stops TorchServe at any time that a signal arrives."""

import signal
from collections.abc import Iterator
from pathlib import Path

import pytest

from serving import java, local
from serving.artifact import Artifact


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
