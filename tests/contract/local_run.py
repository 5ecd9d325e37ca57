"""Run the contract checks against faulty_server.py as a process of this machine, without Docker.

python -m tests.contract.local_run KIND INSTANCES READY_S
"""

import os
import subprocess
import sys
import tempfile
from pathlib import Path

from contract.suite import run
from contract.vertex import Options, Variables

SERVER = Path(__file__).with_name("faulty_server.py")


class LocalProcess:
    """A running faulty_server.py."""

    address = "127.0.0.2"
    """A server that listens only on 127.0.0.1 is not reachable here, and fails its check."""

    def __init__(self, kind: str, variables: Variables) -> None:
        self._log = tempfile.TemporaryFile()  # noqa: SIM115  closed in remove
        self._process = subprocess.Popen(
            [sys.executable, str(SERVER), kind],
            env={**os.environ, **variables.environ()},
            stdout=self._log,
            stderr=subprocess.STDOUT,
        )

    @property
    def is_running(self) -> bool:
        return self._process.poll() is None

    def logs(self, *, tail: int | None = None) -> str:
        self._log.seek(0)
        return b"".join(self._log.readlines()[-(tail or 0) :]).decode()

    def remove(self) -> None:
        self._process.kill()
        self._process.wait()
        self._log.close()


if __name__ == "__main__":
    kind, instances, timeout_s = sys.argv[1], Path(sys.argv[2]), float(sys.argv[3])
    options = Options(image="", instances=instances, ready_s=timeout_s, liveness_s=timeout_s)
    sys.exit(run(options, lambda variables: LocalProcess(kind, variables)))
