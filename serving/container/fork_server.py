"""The fork server of the workers: started with the container, before Java."""

import socket
import subprocess
import sys
import threading

from serving.container.supervisor import describe_exit
from serving.logs import Log
from serving.torchserve import PATCHED_WORKER_HOME, TorchServeConfig, build_environment


class ForkServer:
    """The process that imports torch while Java starts, and forks the workers.

    The container does not need it: if it ends, workers that start later import torch themselves.
    """

    def __init__(self, config: TorchServeConfig, log: Log) -> None:
        """Start it; `config` has the layout of the workers, whose threads torch reads when it is imported."""
        self._log, self._stopping = log, False
        with socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET) as listener:
            listener.bind(str(config.fork_server_socket))
            listener.listen()
            self.process = subprocess.Popen(
                [sys.executable, "-m", "serving_worker.fork_server", str(listener.fileno())],
                pass_fds=[listener.fileno()],
                env=build_environment(config) | {"PYTHONPATH": str(PATCHED_WORKER_HOME)},
                cwd=config.run_dir,
                stdin=subprocess.DEVNULL,
                stdout=subprocess.PIPE,
                stderr=subprocess.STDOUT,
                text=True,
                errors="replace",
            )
        threading.Thread(target=self._read_log, daemon=True).start()

    def _read_log(self) -> None:
        assert self.process.stdout is not None
        with self.process.stdout as lines:
            for text in lines:
                self._log.write("WARNING", text.rstrip("\n"), "worker")
        if self._stopping:
            return
        end = describe_exit(self.process.wait())
        message = f"the fork server {end}; workers that start from now on import torch themselves"
        self._log.write("ERROR", message)

    def stop(self) -> None:
        """End it without a log line."""
        self._stopping = True
        self.process.kill()
        self.process.wait()
