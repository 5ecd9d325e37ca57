"""The servers of one archive: ours, TorchServe as its samples set it up, and the peers."""

import contextlib
import os
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

import requests

from benchmarks import image
from benchmarks.load import Load, press
from benchmarks.workloads import BUILD, Workload
from serving.torchserve import find_free_port

ROOT = Path(__file__).resolve().parent.parent
PEERS_BIN = BUILD.resolve() / "venv" / "bin"
"""Of the peers' own environment, which make bench creates."""


class StartError(Exception):
    """A contestant does not answer."""


class Contestant(NamedTuple):
    """One way of serving."""

    name: str
    command: str
    """With {python}, {port}, {archive} (a .mar) and {model} (its name) to be filled in."""
    route: str
    workers: int = 0
    """0: its own choice."""
    threads: int = 0

    @property
    def label(self) -> str:
        """The name, and the layout where it is given."""
        return f"{self.name} {self.workers}x{self.threads}" if self.workers else self.name


STOCK = Contestant(
    "stock TorchServe",
    "{python} -m benchmarks.stock --archive {archive} --port {port}",
    "/predictions/stock",
)
"""TorchServe as Google's samples start it, with its own workers and threads."""
PEERS = [
    Contestant("FastAPI", "python -m benchmarks.peers.fastapi_app", "/predict"),
    Contestant("LitServe", "python -m benchmarks.peers.litserve_app", "/predict"),
    Contestant(
        "BentoML", "bentoml serve benchmarks.peers.bentoml_app:Inference --port {port}", "/predict"
    ),
    Contestant(
        "Mosec", "python -m benchmarks.peers.mosec_app --port {port} --timeout 60000", "/inference"
    ),
]


def peers(cores: int) -> list[Contestant]:
    """Return the peers, each with a process a core and with one process that has all cores."""
    layouts = [(cores, 1)] if cores == 1 else [(cores, 1), (1, cores)]
    return [peer._replace(workers=w, threads=t) for peer in PEERS for w, t in layouts]


def ours(layout: str = "") -> Contestant:
    """Return ours without a container and nginx, with a layout as serving.local takes it."""
    command = "{python} -m serving.local --archive {archive} --port {port}"
    options = f" --layout {layout}" if layout else ""
    return Contestant(f"ours {layout}".strip(), command + options, "/predictions/{model}")


class Served(NamedTuple):
    """A contestant that runs, or is stopped while another has its turn."""

    url: str
    group: int | None
    """Its process group; None for a container, which is not stopped."""

    def signal(self, number: signal.Signals) -> None:
        """Send a signal to all of its processes, if it is not a container."""
        if self.group:
            os.killpg(self.group, number)

    def press(self, body: Path, clients: int, seconds: float, settle_s: float = 0.7) -> Load:
        """Let it continue for one run of load, and stop it again: some poll for work all the time.

        `settle_s` passes before and after, so that no request runs into the next one's turn.
        """
        self.signal(signal.SIGCONT)
        time.sleep(settle_s)
        load = press(self.url, body, clients, seconds)
        time.sleep(settle_s)
        self.signal(signal.SIGSTOP)
        return load


@contextlib.contextmanager
def started(
    contestant: Contestant, archive: Path, body: Path, environment: dict[str, str] | None = None
) -> Iterator[Served]:
    """Start a contestant on a free port; yield it, stopped, once it answers the request `body`.

    It logs to a file beside `body`. Raises DidNotStart.
    """
    port, model = str(find_free_port()), archive.stem
    filled = {"python": sys.executable, "port": port, "archive": str(archive), "model": model}
    url = f"http://127.0.0.1:{port}{contestant.route.format(**filled)}"
    log = body.with_name(f"{model} {contestant.label}.log".replace(" ", "-"))
    with log.open("w") as output:
        process = subprocess.Popen(
            [word.format(**filled) for word in contestant.command.split()],
            env=(environment or dict(os.environ)) | {"PORT": port},
            stdin=subprocess.DEVNULL,
            stdout=output,
            stderr=subprocess.STDOUT,
            start_new_session=True,
            cwd=ROOT,
        )
        try:
            _wait_for(url, body.read_bytes(), process)
            served = Served(url, process.pid)
            served.signal(signal.SIGSTOP)
            yield served
        finally:
            _end(process)


def environment(contestant: Contestant, workload: Workload) -> dict[str, str]:
    """Return the variables that a contestant is started with."""
    inherited = {k: v for k, v in os.environ.items() if not k.startswith(("OMP_", "TS_"))}
    if contestant.name.startswith(("ours", "stock")):
        return inherited
    return inherited | {
        "ARCHIVE": str(workload.folder.resolve()),
        "WORKERS": str(contestant.workers),
        "THREADS": str(contestant.threads),
        "OMP_NUM_THREADS": str(contestant.threads),
        "LARGEST_BATCH": str(workload.largest_batch),
        "PYTHONPATH": str(ROOT),
        "PATH": f"{PEERS_BIN}:{os.environ['PATH']}",
        "BENTOML_DO_NOT_TRACK": "True",
    }


@contextlib.contextmanager
def container(tag: str, docker: str, workload: Workload) -> Iterator[Served]:
    """Start the image `tag` with the workload's archive; yield it once it is healthy."""
    folder = (BUILD / f"{workload.name}-served").resolve()
    folder.mkdir(parents=True, exist_ok=True)
    shutil.copyfile(workload.archive, folder / "model.mar")
    mount = ("--volume", f"{folder}:/mnt/model:ro", "--env", "AIP_STORAGE_URI=/mnt/model")
    with image.running(docker, tag, *mount) as server:
        yield Served(server.url, None)


def _wait_for(url: str, body: bytes, process: subprocess.Popen[bytes]) -> None:
    """Return once a request is answered; raise DidNotStart."""
    headers = {"Content-Type": "application/json"}
    deadline = time.monotonic() + image.START_TIMEOUT_S
    problem = "no answer"
    while time.monotonic() < deadline and process.poll() is None:
        try:
            requests.post(url, body, headers=headers, timeout=30).raise_for_status()
            return
        except requests.RequestException as error:
            problem = str(error)
        time.sleep(0.2)
    raise StartError(f"{url}: {problem}")


def _end(process: subprocess.Popen[bytes]) -> None:
    for number, timeout_s in ((signal.SIGCONT, 0.1), (signal.SIGTERM, 10), (signal.SIGKILL, 10)):
        with contextlib.suppress(ProcessLookupError):
            os.killpg(process.pid, number)
        with contextlib.suppress(subprocess.TimeoutExpired):
            process.wait(timeout_s)
