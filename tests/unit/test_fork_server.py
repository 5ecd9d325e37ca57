"""The fork server and its launchers, as processes: what Java sees of a worker, and which process ends with which."""

import json
import os
import re
import signal
import socket
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from serving.container.fork_server import ForkServer
from serving.torchserve import PATCHED_WORKER_HOME, find_package_dir
from tests.http import wait_for

WORKER = PATCHED_WORKER_HOME / "ts/model_service_worker.py"
METRICS = find_package_dir() / "configs/metrics.yaml"

Launch = Callable[..., subprocess.Popen[str]]


@pytest.fixture(scope="module")
def fork_server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[str, int]]:
    """Start a fork server; return the path of its socket and its process ID."""
    path = tmp_path_factory.mktemp("fork") / "socket"
    with socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET) as listener:
        listener.bind(str(path))
        listener.listen()
        process = subprocess.Popen(
            [sys.executable, "-m", "serving_worker.fork_server", str(listener.fileno())],
            pass_fds=[listener.fileno()],
            env=os.environ | {"PYTHONPATH": str(PATCHED_WORKER_HOME)},
            stdin=subprocess.PIPE,
        )
    assert process.stdin is not None
    with process.stdin as stream:
        stream.write(json.dumps(dict(os.environ)).encode())
    yield str(path), process.pid
    process.kill()
    process.wait()


@pytest.fixture
def launch(fork_server: tuple[str, int], tmp_path: Path) -> Iterator[Launch]:
    """Return a function that starts a worker as Java does, in the folder of an archive."""
    started: list[subprocess.Popen[str]] = []

    def start(address: str = fork_server[0]) -> subprocess.Popen[str]:
        arguments = ["--sock-type", "unix", "--sock-name", str(tmp_path / "worker.9000")]
        launcher = subprocess.Popen(
            [sys.executable, str(WORKER), *arguments, "--metrics-config", str(METRICS)],
            cwd=tmp_path,
            env=os.environ
            | {"PYTHONPATH": f"{tmp_path}:{PATCHED_WORKER_HOME}", "FORK_SERVER": address},
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
        )
        started.append(launcher)
        return launcher

    yield start
    for launcher in started:
        launcher.kill()
        launcher.communicate(timeout=10)


def read_worker_id(launcher: subprocess.Popen[str]) -> int:
    """Return the process ID of the worker that a launcher has started, from its log."""
    assert launcher.stdout is not None
    for line in launcher.stdout:
        if match := re.search(r"\[PID\](\d+)", line):
            return int(match[1])
    raise AssertionError("the worker did not start")


def parent(pid: int) -> int:
    return int(Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[1])


def has_ended(pid: int) -> bool:
    return not Path(f"/proc/{pid}/cmdline").exists() or not Path(f"/proc/{pid}/cmdline").read_text()


def test_worker_is_forked_with_the_launchers_arguments_streams_and_folder(
    launch: Launch, fork_server: tuple[str, int], tmp_path: Path
) -> None:
    worker = read_worker_id(launch())
    assert parent(worker) == fork_server[1]
    assert "model_service_worker" in Path(f"/proc/{worker}/cmdline").read_text()
    assert "model_service_worker" not in Path(f"/proc/{fork_server[1]}/cmdline").read_text()
    assert Path(f"/proc/{worker}/cwd").resolve() == tmp_path.resolve()
    assert (tmp_path / "worker.9000").is_socket()


def test_worker_ends_with_its_launcher_even_if_it_is_stopped(launch: Launch) -> None:
    launcher = launch()
    worker = read_worker_id(launcher)
    os.kill(worker, signal.SIGSTOP)
    launcher.kill()
    wait_for(lambda: has_ended(worker), 2, "the worker's end")


def test_launcher_ends_with_its_worker(launch: Launch) -> None:
    launcher = launch()
    os.kill(read_worker_id(launcher), signal.SIGKILL)
    assert launcher.wait(2) == 1


def test_archive_with_a_module_that_is_imported_already_gets_a_new_process(
    launch: Launch, tmp_path: Path
) -> None:
    (tmp_path / "yaml.py").write_text("raise ImportError('the own yaml')")
    output, _ = launch().communicate(timeout=60)
    assert "the own yaml" in output


def test_launcher_becomes_the_worker_without_a_fork_server(launch: Launch, tmp_path: Path) -> None:
    launcher = launch(str(tmp_path / "missing"))
    assert read_worker_id(launcher) == launcher.pid


def test_workers_survive_the_fork_server_and_new_ones_do_without(
    launch: Launch, fork_server: tuple[str, int], tmp_path: Path
) -> None:
    launcher = launch()
    worker = read_worker_id(launcher)
    os.kill(fork_server[1], signal.SIGKILL)
    (tmp_path / "worker.9000").unlink()
    other = launch()
    assert read_worker_id(other) == other.pid
    assert not has_ended(worker)
    launcher.kill()
    wait_for(lambda: has_ended(worker), 2, "the worker's end")


def test_ctrl_c_does_not_reach_the_fork_server_and_its_end_is_logged(tmp_path: Path) -> None:
    server = ForkServer()
    assert os.getpgid(server.process.pid) != os.getpgid(0)
    server.process.kill()
    server.process.wait()
    lines: list[tuple[str, str, str]] = []
    server.configure(tmp_path / "socket", {}, lambda *line: lines.append(line))
    wait_for(lambda: lines, 5, "the log line")
    assert "the fork server was killed by SIGKILL" in lines[0][1]
