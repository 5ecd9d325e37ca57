"""Our workers without TorchServe's Java and nginx: the load generator connects to them as nginx does."""

import contextlib
import os
import socket
import struct
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import BinaryIO

from benchmarks.errors import StartError
from benchmarks.gpu.load import Address
from benchmarks.servers import describe_log
from serving.container.fork_server import WORKER_HOME
from serving.container.listener import Listener
from serving.gpu import Gpu
from serving.layout import GPU_GATHER_MS, Layout
from serving.logs import Log
from serving.torchserve import build_environment, find_package_dir
from serving.torchserve_config import TorchServeConfig
from serving.worker.serving_worker.device import FIRST_PORT

HANDLER = "vertex_handler.py"
START_TIMEOUT_S = 180
RESPONSE_TIMEOUT_S = 3600
"""A worker that is paused within a second of a batch ends when it is resumed after the time for a response."""


@contextlib.contextmanager
def run_workers(
    folder: Path, layout: Layout, log_file: Path, gpus: Sequence[Gpu]
) -> Iterator[tuple[Address, int]]:
    """Start the workers of an unpacked archive; yield where they listen and their process group.

    Without `gpus` they use the CPU, and collect batches as on a GPU. Raises StartError.
    """
    with (
        # The path of a socket has at most 107 bytes.
        tempfile.TemporaryDirectory(prefix="gpu-") as run_dir,
        _run_workers(folder, layout, Path(run_dir), log_file, gpus) as running,
    ):
        yield running


@contextlib.contextmanager
def _run_workers(
    folder: Path, layout: Layout, run_dir: Path, log_file: Path, gpus: Sequence[Gpu]
) -> Iterator[tuple[Address, int]]:
    listener = Listener(run_dir, Log(as_text=True, stream=sys.stderr))
    config = TorchServeConfig(
        archive=folder,
        run_dir=run_dir,
        layout=layout,
        address="unix:none",
        listener_socket=listener.handout_path,
        gpus=gpus or None,
        response_timeout_s=RESPONSE_TIMEOUT_S,
    )
    path = os.pathsep.join(
        filter(None, [str(WORKER_HOME), str(folder.resolve()), os.environ.get("PYTHONPATH")])
    )
    environment = build_environment(config)
    environment |= {"PYTHONPATH": path, "FORK_SERVER": "", "BATCH_GATHER_MS": str(GPU_GATHER_MS)}
    processes: list[subprocess.Popen[bytes]] = []
    with log_file.open("wb") as log, contextlib.ExitStack() as stack:
        stack.callback(listener.close)
        stack.callback(_stop, processes)
        for index in range(layout.workers):
            group = processes[0].pid if processes else 0
            processes.append(_start_worker(_find_socket(run_dir, index), environment, log, group))
        connections = [
            stack.enter_context(_connect(_find_socket(run_dir, index), process, log_file))
            for index, process in enumerate(processes)
        ]
        for connection in connections:
            connection.sendall(_encode_load(folder, layout.batch_size))
        for connection in connections:
            _wait_until_loaded(connection, log_file)
        yield Address(str(listener.path), "/predictions/model"), processes[0].pid


def _start_worker(
    path: Path, environment: dict[str, str], log: BinaryIO, group: int
) -> subprocess.Popen[bytes]:
    """Start a worker that listens at a path for Java, in a process group; 0: one of its own."""
    program = WORKER_HOME / "ts" / "model_service_worker.py"
    metrics = find_package_dir() / "configs" / "metrics.yaml"
    options = ("--sock-type", "unix", "--sock-name", str(path), "--metrics-config", str(metrics))
    return subprocess.Popen(
        [sys.executable, str(program), *options],
        env=environment,
        cwd=path.parent,
        stdin=subprocess.DEVNULL,
        stdout=log,
        stderr=log,
        process_group=group,
    )


def _wait_until_loaded(connection: socket.socket, log_file: Path) -> None:
    """Wait until a worker has loaded the model; raise StartError."""
    text = "a worker did not load the model"
    try:
        if not connection.recv(1):
            raise StartError(f"{text}; {describe_log(log_file)}")
    except TimeoutError as error:
        text = f"{text} within {START_TIMEOUT_S} s"
        raise StartError(f"{text}; {describe_log(log_file)}") from error


def _find_socket(run_dir: Path, index: int) -> Path:
    """Return the socket of a worker for Java; TorchServe's code expects a number at its end."""
    return run_dir / f"java.{FIRST_PORT + index}"


def _connect(path: Path, process: subprocess.Popen[bytes], log_file: Path) -> socket.socket:
    """Connect to a worker in the place of Java; raise StartError."""
    deadline = time.monotonic() + START_TIMEOUT_S
    while time.monotonic() < deadline and process.poll() is None:
        connection = socket.socket(socket.AF_UNIX)
        connection.settimeout(START_TIMEOUT_S)
        try:
            connection.connect(str(path))
        except OSError:  # it does not listen yet
            connection.close()
            time.sleep(0.1)
        else:
            return connection
    raise StartError(f"a worker did not start; {describe_log(log_file)}")


def _encode_load(folder: Path, batch_size: int) -> bytes:
    """Return the message that makes a worker load the model. The worker selects its GPU itself."""
    from serving.worker.serving_worker.messages import LOAD  # noqa: PLC0415  imports TorchServe

    def encode(value: str) -> bytes:
        return struct.pack("!i", len(value)) + value.encode()

    model = encode("model") + encode(str(folder.resolve()))
    numbers = struct.pack("!i", batch_size) + encode(HANDLER) + struct.pack("!i", -1)
    return LOAD + model + numbers + encode("") + b"\0"


def _stop(processes: list[subprocess.Popen[bytes]]) -> None:
    for process in processes:
        process.kill()
    for process in processes:
        process.wait(10)
