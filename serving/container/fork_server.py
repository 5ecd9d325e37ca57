"""The fork server of the workers: the first process that the container starts, so this module imports little."""

import contextlib
import json
import os
import socket
import subprocess
import sys
import threading
from collections.abc import Callable, Mapping
from pathlib import Path

from serving.container.errors import describe_exit

WORKER_HOME = Path(__file__).parents[1] / "worker"


class ForkServer:
    """The process that imports torch while Java starts, and forks the workers.

    The container does not need it: if it ends, workers that start later import torch themselves.
    """

    def __init__(self) -> None:
        """Start it; it imports torch once `configure` is called."""
        self._stopping = False
        self._listener = socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        self.process = subprocess.Popen(
            [sys.executable, "-m", "serving_worker.fork_server", str(self._listener.fileno())],
            pass_fds=[self._listener.fileno()],
            env=os.environ | {"PYTHONPATH": str(WORKER_HOME)},
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            errors="replace",
            start_new_session=True,  # Ctrl-C must not interrupt the workers
        )

    def configure(
        self, path: Path, environment: Mapping[str, str], log: Callable[[str, str, str], None]
    ) -> None:
        """Take launchers at a socket's path; the workers' variables have the threads of torch.

        `log` gets the severity, text and process of each line.
        """
        with self._listener as listener:
            listener.bind(str(path))
            listener.listen()
        threading.Thread(target=self._read_log, args=[log], daemon=True).start()
        assert self.process.stdin is not None
        # If it has ended already, _read_log logs that.
        with contextlib.suppress(BrokenPipeError), self.process.stdin as stream:
            json.dump(dict(environment), stream)

    def _read_log(self, log: Callable[[str, str, str], None]) -> None:
        assert self.process.stdout is not None
        with self.process.stdout as lines:
            for text in lines:
                log("WARNING", text.rstrip("\n"), "worker")
        if self._stopping:
            return
        end = describe_exit(self.process.wait())
        message = f"the fork server {end}; workers that start from now on import torch themselves"
        log("ERROR", message, "entrypoint")

    def stop(self) -> None:
        """End it without a log line."""
        self._stopping = True
        self.process.kill()
        self.process.wait()
