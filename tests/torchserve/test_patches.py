"""TORCHSERVE_PATCHES: the same answers with the patches of TorchServe on and off."""

import signal
from collections.abc import Iterator
from pathlib import Path

import pytest

from serving import torchserve
from tests import cases
from tests.http import Endpoint
from tests.torchserve.conftest import LocalServer, program

PATCHED_WORKER, STOCK_WORKER = (
    str((home / "ts/model_service_worker.py").resolve())
    for home in (torchserve.PATCHED_WORKER_HOME, torchserve.find_package_dir().parent)
)


@pytest.fixture(params=["on", "off"])
def switch(request: pytest.FixtureRequest) -> str:
    """Return both values of TORCHSERVE_PATCHES."""
    return str(request.param)


@pytest.fixture
def server(switch: str) -> Iterator[tuple[LocalServer, Endpoint]]:
    """Serve the archive as `TORCHSERVE_PATCHES=... make serve` does."""
    port = torchserve.find_free_port()
    local = LocalServer("--port", str(port), "--layout", "1x1", TORCHSERVE_PATCHES=switch)
    try:
        local.read_until("Press Ctrl-C to stop.")
        yield local, Endpoint(f"http://127.0.0.1:{port}/predictions/toy")
    finally:
        local.stop(signal.SIGINT)


def test_switch_selects_bytecode_and_worker_keeps_the_answers_and_is_logged(
    server: tuple[LocalServer, Endpoint], switch: str
) -> None:
    local, endpoint = server
    assert f"patches {switch}" in local.output
    commands = [Path(f"/proc/{pid}/cmdline").read_text() for pid in local.descendants()]
    (java,) = [command for command in commands if "org.pytorch.serve.ModelServer" in command]
    assert ("/classes:" in java) == (switch == "on")
    worker = PATCHED_WORKER if switch == "on" else STOCK_WORKER
    assert any(worker in command for command in commands)
    for case in cases.CASES:
        answer = endpoint.post(case.body, case.headers)
        cases.check_response(case, answer.code, answer.body)


def test_other_values_of_the_switch_are_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TORCHSERVE_PATCHES", "no")
    done = program("serving.local")
    assert done.returncode == 1
    assert "TORCHSERVE_PATCHES=no: expected on or off" in done.stderr
