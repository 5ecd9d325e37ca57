"""The fork server: imports torch once, and forks a worker for each launcher that connects.

It starts with the container, so that torch is imported while Java starts. Later workers start faster too, and
all workers share the memory of the imported modules. It starts no thread and opens no device: neither survives
a fork.
"""

import argparse
import ctypes
import fcntl
import gc
import importlib
import json
import os
import signal
import socket
import sys
from pathlib import Path

STANDARD = (
    "asyncio",
    "email.parser",
    "importlib.metadata",
    "inspect",
    "multiprocessing.connection",
    "PIL.Image",
    "ssl",
    "typing_extensions",
    "unittest.mock",
    "yaml",
)
"""Imported before the variables of the workers are known: torch imports most of these."""
PRELOADED = (
    "torch",
    "torch.export",
    "numpy",
    "safetensors.torch",
    "serving_worker.process",
)
"""What workers import, except an archive's own modules."""
MAX_REQUEST_BYTES = 1 << 20
STANDARD_STREAMS = 3


def main() -> None:
    """Import the modules, then fork a worker for each connection until this process is killed.

    The variables of the workers are read from standard input, because torch follows some when it is imported.
    """
    parser = argparse.ArgumentParser(
        prog="python -m serving_worker.fork_server", description=__doc__
    )
    parser.add_argument("listener", type=int, help="the file descriptor of a listening unix socket")
    listener = socket.socket(fileno=parser.parse_args().listener)
    for name in STANDARD:
        importlib.import_module(name)
    if not (variables := sys.stdin.read()):
        return  # the entrypoint has ended
    os.environ.clear()
    os.environ.update(json.loads(variables))
    # The collector would only search what is kept anyway, and write to memory that is shared.
    gc.disable()
    for name in PRELOADED:
        importlib.import_module(name)
    gc.freeze()
    signal.signal(signal.SIGCHLD, signal.SIG_IGN)  # Linux then removes workers that have ended
    while True:
        connection, _ = listener.accept()
        if os.fork() == 0:
            listener.close()
            _run_worker(connection)
            return
        connection.close()


def _run_worker(connection: socket.socket) -> None:
    """Take the launcher's place: its streams, variables, arguments and working directory."""
    signal.signal(signal.SIGCHLD, signal.SIG_DFL)
    gc.enable()
    content, streams, _, _ = socket.recv_fds(connection, MAX_REQUEST_BYTES, STANDARD_STREAMS)
    if not content:
        return  # the launcher has ended
    request = json.loads(content)
    for number, stream in enumerate(streams):
        os.dup2(stream, number)
        os.close(stream)
    threads = os.environ.get("OMP_NUM_THREADS")
    os.environ.clear()
    os.environ.update(request["environment"])
    own_threads = os.environ.get("OMP_NUM_THREADS")
    if (
        own_threads and own_threads != threads
    ):  # of another model than the one torch was imported for
        sys.modules["torch"].set_num_threads(int(own_threads))
    os.chdir(request["folder"])
    sys.argv[:], sys.path[:] = request["arguments"], request["path"]
    end_with_peer(connection)
    connection.send(b"started")
    if _has_imported(Path()):
        connection.set_inheritable(True)
        os.execv(sys.executable, [sys.executable, *sys.argv])  # noqa: S606
    set_command_line(["python", Path(sys.argv[0]).name, *sys.argv[1:]])
    if "numpy.random" in sys.modules:
        sys.modules["numpy.random"].seed()
    importlib.import_module("serving_worker.process").main()


def end_with_peer(connection: socket.socket) -> None:
    """Let Linux kill this process once the other end of a connection is closed, whatever it is doing.

    The peer must not send anything after this.
    """
    fcntl.fcntl(connection, fcntl.F_SETOWN, os.getpid())
    fcntl.fcntl(connection, fcntl.F_SETSIG, signal.SIGKILL)
    flags = fcntl.fcntl(connection, fcntl.F_GETFL)
    fcntl.fcntl(connection, fcntl.F_SETFL, flags | os.O_ASYNC)


def _has_imported(folder: Path) -> bool:
    """Return whether a folder has a module of the same name as one that is imported from elsewhere."""
    imported = {name.partition(".")[0] for name in sys.modules}
    return any(
        entry.name.partition(".")[0] in imported
        for entry in folder.iterdir()
        if entry.is_dir() or entry.suffix in (".py", ".so")
    )


def set_command_line(words: list[str]) -> None:
    """Replace this process's command line in /proc by as much of `words` as fits."""
    fields = Path("/proc/self/stat").read_text().rpartition(")")[2].split()
    start, end = int(fields[45]), int(fields[46])  # arg_start and arg_end: man 5 proc
    text = "\0".join(words).encode()[: end - start - 1]
    ctypes.memmove(start, text.ljust(end - start, b"\0"), end - start)


if __name__ == "__main__":
    main()
