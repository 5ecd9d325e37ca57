"""TorchServe for these tests: as this project runs it, and by the command `torchserve`."""

import contextlib
import os
import signal
import subprocess
import sys
import tempfile
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from serving import artifact, java, local, probe, torchserve
from serving.layout import Layout
from serving.torchserve_config import TorchServeConfig
from tests.http import Endpoint, wait_for
from tests.images import ARCHIVE, ROOT

TWO_WORKERS = Layout(workers=2, threads=1, batch_delay_ms=20)


def run(
    *command: str, folder: Path = ROOT, stdin: str | None = None
) -> subprocess.CompletedProcess[str]:
    """Run a command and return what it printed."""
    return subprocess.run(
        command, cwd=folder, input=stdin, capture_output=True, text=True, timeout=120, check=False
    )


def program(name: str, *arguments: str) -> subprocess.CompletedProcess[str]:
    """Run one of the project's programs as make does."""
    return run(sys.executable, "-m", name, *arguments)


class LocalServer:
    """`python -m serving.local`, as `make serve` runs it."""

    def __init__(
        self,
        *arguments: str,
        folder: Path = ROOT,
        python: str = sys.executable,
        **environ: str,
    ) -> None:
        self.process = subprocess.Popen(
            [python, "-m", "serving.local", *arguments],
            cwd=folder,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            env={**os.environ, "PYTHONUNBUFFERED": "1", **environ},
        )
        self.output = ""

    def read_until(self, text: str, timeout_s: float = 60) -> str:
        """Collect the output until a line contains `text`, and return that line."""
        assert self.process.stdout is not None
        # Without the timer, a server without output would be waited for without end.
        timer = threading.Timer(timeout_s, self.process.kill)
        timer.start()
        try:
            for line in self.process.stdout:
                self.output += line
                if text in line:
                    return line
        finally:
            timer.cancel()
        pytest.fail(f"ended without {text!r}:\n{self.output}")

    def descendants(self) -> list[int]:
        """Return the process ids of its Java and its workers."""
        return _list_descendants(self.process.pid)

    def stop(self, number: signal.Signals) -> str:
        """Send a signal and return the output until the process has ended."""
        self.process.send_signal(number)
        output, _ = self.process.communicate(timeout=40)
        return str(output)


def _list_descendants(pid: int) -> list[int]:
    found = []
    for task in Path(f"/proc/{pid}/task").glob("*/children"):
        for child in map(int, task.read_text().split()):
            found += [child, *_list_descendants(child)]
    return found


@contextmanager
def serving(
    archive: Path, request: bytes | None = None, layout: Layout = TWO_WORKERS
) -> Iterator[Endpoint]:
    """Serve an archive on a free port for as long as the block lasts.

    `request` replaces its golden request in health probes.
    """
    with tempfile.TemporaryDirectory(prefix="ts-") as run:
        address = f"http://127.0.0.1:{torchserve.find_free_port()}"
        config = TorchServeConfig(
            archive=archive, run_dir=Path(run), layout=layout, address=address
        )
        server = torchserve.Server(config, java.find(), print)
        try:
            probe_request = request or artifact.read_golden_request(archive)
            local.wait_until_ready(server, probe.create_probe(config, probe_request))
            yield Endpoint(f"{address}/predictions/{archive.stem}")
        finally:
            server.stop()


@contextmanager
def stock_torchserve(archive: Path, request: bytes, *more_settings: str) -> Iterator[Endpoint]:
    """Serve an archive by the command `torchserve` during the block, which begins once it answers."""
    kinds = ("inference_address", "management_address", "metrics_address")
    ports = {kind: torchserve.find_free_port() for kind in kinds}
    settings = [
        *(f"{kind}=http://127.0.0.1:{port}" for kind, port in ports.items()),
        *(
            f"grpc_{kind}_port={torchserve.find_free_port()}"
            for kind in ("inference", "management")
        ),
        "default_workers_per_model=1",
        *more_settings,
    ]
    with tempfile.TemporaryDirectory(prefix="stock-") as run, Path(run, "log").open("w") as log:
        Path(run, "config.properties").write_text("\n".join(settings) + "\n")
        command = [
            *(str(Path(sys.executable).with_name("torchserve")), "--start", "--foreground"),
            *("--ncs", "--disable-token-auth", "--ts-config", "config.properties"),
            *("--model-store", str(archive.parent), "--models", f"{archive.stem}={archive.name}"),
        ]
        java_home = str(Path(java.find().executable).parent.parent)
        environ = os.environ | {"JAVA_HOME": java_home, "LOG_LOCATION": run, "TEMP": run}
        server = subprocess.Popen(
            command, env=environ, cwd=run, stdout=log, stderr=log, start_new_session=True
        )
        endpoint = Endpoint(
            f"http://127.0.0.1:{ports['inference_address']}/predictions/{archive.stem}"
        )

        def answers() -> bool:
            with contextlib.suppress(OSError):
                return endpoint.post(request).code == 200
            return False

        try:
            wait_for(answers, 90, "stock TorchServe")
            yield endpoint
        finally:
            # Its Python process forwards no signals, so the whole group is killed.
            os.killpg(server.pid, signal.SIGKILL)
            server.wait(10)


@pytest.fixture(scope="session")
def toy() -> Iterator[Endpoint]:
    """Serve the toy's archive."""
    with serving(ARCHIVE) as endpoint:
        yield endpoint
