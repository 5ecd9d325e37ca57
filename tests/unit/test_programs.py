"""Tests of the programs that deploy runs: they end with it."""

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from deploy import builder, text
from deploy.clients import CloudClients
from deploy.programs import Programs
from deploy.settings import Settings
from tests.images import ROOT

RUNNER = """
from deploy import cli
from deploy.programs import Programs
cli.handle_signals()
cli.run("test", lambda: print(Programs(print).run(["sh", "-c", "sleep 60 & echo $! > pid; wait"], show_output=True)))
"""
TIMEOUT_S = 15


@pytest.mark.parametrize("signal_number", [signal.SIGINT, signal.SIGTERM, signal.SIGKILL])
def test_child_of_a_program_ends_when_the_command_is_interrupted_or_killed(
    tmp_path: Path, signal_number: signal.Signals
) -> None:
    environ = {**os.environ, "PYTHONPATH": str(ROOT)}
    process = subprocess.Popen([sys.executable, "-c", RUNNER], cwd=tmp_path, env=environ)
    file = tmp_path / "pid"
    wait_until(lambda: file.is_file() and file.read_text().strip() != "")
    child = int(file.read_text())
    assert is_running(child)
    process.send_signal(signal_number)
    process.wait(TIMEOUT_S)
    wait_until(lambda: not is_running(child))


def wait_until(condition: object) -> None:
    deadline = time.monotonic() + TIMEOUT_S
    assert callable(condition)
    while not condition():
        assert time.monotonic() < deadline, "timed out"
        time.sleep(0.05)


def is_running(process_id: int) -> bool:
    try:
        state = Path(f"/proc/{process_id}/stat").read_text().rpartition(")")[2].split()[0]
    except FileNotFoundError:
        return False
    return state != "Z"


def test_output_and_exit_code_are_those_of_the_program() -> None:
    run = Programs(print).run
    assert run(["sh", "-c", "echo out; echo err >&2"]) == "out\n"
    with pytest.raises(Exception, match="sh -c exit 3 failed"):
        run(["sh", "-c", "exit 3"])


@pytest.mark.parametrize(
    ("engine", "expected"),
    [
        ('{"Os": "linux", "Arch": "amd64"}', "local"),
        ('{"Os": "linux", "Arch": "amd64"}\'; test $1 = version #', "cloud"),
        ('{"Os": "linux", "Arch": "arm64"}', "cloud"),
        ("null", "cloud"),
    ],
)
def test_auto_builds_with_a_docker_engine_of_the_platform_of_vertex_ai_that_has_buildkit(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, engine: str, expected: str
) -> None:
    docker = tmp_path / "docker"
    docker.write_text(f"#!/bin/sh\necho '{engine}'\n")
    docker.chmod(0o755)
    monkeypatch.setenv("DOCKER", str(docker))
    builder.has_engine.cache_clear()
    cloud = CloudClients.create(Settings(project="my-project"))
    assert builder.choose(cloud) == expected
    monkeypatch.setenv("DOCKER", "not-installed")
    assert builder.choose(cloud) == "cloud"


@pytest.mark.parametrize(
    ("seconds", "expected"),
    [(0.2, "0 s"), (40, "40 s"), (90, "1 min 30 s"), (600, "10 min"), (7260, "2 h 1 min")],
)
def test_duration_is_written_in_hours_minutes_and_seconds(seconds: float, expected: str) -> None:
    assert text.format_duration(seconds) == expected


def test_commands_import_no_client_library_of_google_which_would_take_seconds() -> None:
    code = (
        "import sys, deploy.__main__\n"
        "from deploy.clients import CloudClients\n"
        "from deploy.settings import Settings\n"
        "CloudClients.create(Settings(project='my-project'))\n"
        "print(*sorted(name for name in sys.modules if name.startswith(('google.cloud.', 'torch', 'numpy'))))"
    )
    environ = {**os.environ, "PYTHONPATH": str(ROOT)}
    done = subprocess.run(
        [sys.executable, "-c", code],
        capture_output=True,
        text=True,
        check=True,
        env=environ,
        timeout=60,
    )
    assert done.stdout.strip() == ""
