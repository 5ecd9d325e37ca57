"""Who serves the same archive: ours, TorchServe as its samples set it up, and the peers."""

import contextlib
import os
import shutil
import signal
import subprocess
import sys
import time
import urllib.error
import urllib.request
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import NamedTuple

from benchmarks.container import Container
from benchmarks.workloads import BUILD, Workload
from serving.torchserve import free_port

ROOT = Path(__file__).resolve().parent.parent
PEERS = BUILD / "venv" / "bin" / "python"
"""An environment of their own: make bench makes it."""
START_S = 180


class DidNotStart(Exception):
    """A contestant does not answer."""


class Contestant(NamedTuple):
    """One way of serving."""

    name: str
    command: tuple[str, ...]
    """With {port}, {archive} (a .mar), {store} (its folder) and {model} (its name) to be filled in."""
    route: str
    workers: int
    threads: int

    @property
    def label(self) -> str:
        """The name and the layout."""
        return f"{self.name} {self.workers}x{self.threads}"


def peers(cores: int) -> list[Contestant]:
    """Return the peers, each with a process a core and with one process that has all cores."""
    python, app = str(PEERS), "benchmarks.peers.{}_app"
    bentoml = str(PEERS.with_name("bentoml"))
    commands = {
        "FastAPI": ((python, "-m", app.format("fastapi")), "/predict"),
        "LitServe": ((python, "-m", app.format("litserve")), "/predict"),
        "BentoML": (
            (bentoml, "serve", f"{app.format('bentoml')}:Inference", "--port", "{port}"),
            "/predict",
        ),
        "Mosec": (
            (python, "-m", app.format("mosec"), "--port", "{port}", "--timeout", "60000"),
            "/inference",
        ),
    }
    layouts = [(cores, 1)] if cores == 1 else [(cores, 1), (1, cores)]
    return [
        Contestant(name, command, route, workers, threads)
        for name, (command, route) in commands.items()
        for workers, threads in layouts
    ]


def stock(cores: int) -> Contestant:
    """Return TorchServe as Google's samples start it: its own settings, no word on threads."""
    program = (
        sys.executable,
        "-m",
        "benchmarks.stock",
        "--archive",
        "{archive}",
        "--port",
        "{port}",
    )
    return Contestant("stock TorchServe", program, "/predictions/stock", cores, cores)


def local(cores: int) -> Contestant:
    """Return ours without a container and without nginx."""
    program = (sys.executable, "-m", "serving.local", "--archive", "{archive}", "--port", "{port}")
    return Contestant("ours, no container", program, "/predictions/{model}", cores, 1)


def ours(layout: str, archive: Path) -> Contestant:
    """Return ours with a layout of one's own, as serving.local --layout has it."""
    program = (
        *(sys.executable, "-m", "serving.local", "--port", "{port}"),
        *("--archive", str(archive), "--layout", layout),
    )
    return Contestant(f"ours {layout}", program, f"/predictions/{archive.stem}", 0, 0)


class Served(NamedTuple):
    """A contestant that runs, or is held still while it is another's turn."""

    url: str
    group: int | None
    """Its process group; None for a container, which has a group of its own."""

    def wake(self) -> None:
        """Let it go on."""
        if self.group:
            os.killpg(self.group, signal.SIGCONT)

    def sleep(self) -> None:
        """Hold it still: some ask themselves for work a thousand times a second."""
        if self.group:
            os.killpg(self.group, signal.SIGSTOP)


@contextlib.contextmanager
def serving(contestant: Contestant, workload: Workload) -> Iterator["Served"]:
    """Start a contestant on loopback and give it, asleep, once it answers; raise DidNotStart."""
    filled = {"port": "{port}", "archive": workload.archive, "model": workload.archive.stem}
    named = contestant._replace(
        name=f"{workload.name} {contestant.label}",
        command=tuple(word.format(**filled) for word in contestant.command),
        route=contestant.route.format(**filled),
    )
    with started(named, workload.body(1), BUILD, _environment(contestant, workload)) as served:
        yield served


@contextlib.contextmanager
def started(
    contestant: Contestant, body: Path, logs: Path, environment: dict[str, str] | None = None
) -> Iterator[Served]:
    """Start a contestant on a free port, as `serving` does; it logs to a file in `logs`."""
    port = free_port()
    url = f"http://127.0.0.1:{port}{contestant.route}"
    log = logs / f"{contestant.name.replace(' ', '-')}.log"
    with log.open("w") as output:
        process = subprocess.Popen(
            [word.replace("{port}", str(port)) for word in contestant.command],
            env=(environment or dict(os.environ)) | {"PORT": str(port)},
            stdin=subprocess.DEVNULL,
            stdout=output,
            stderr=subprocess.STDOUT,
            start_new_session=True,
            cwd=ROOT,
        )
        try:
            wait_for(url, body, lambda: process.poll() is None)
            served = Served(url, process.pid)
            served.sleep()
            yield served
        finally:
            _end(process)


def _environment(contestant: Contestant, workload: Workload) -> dict[str, str]:
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
        "PATH": f"{PEERS.parent.resolve()}:{os.environ['PATH']}",
        "BENTOML_DO_NOT_TRACK": "True",
    }


@contextlib.contextmanager
def container(image: str, docker: str, workload: Workload) -> Iterator[Served]:
    """Start the image with the archive and give it, on Docker's bridge, once it is healthy."""
    folder = (BUILD / f"{workload.name}-served").resolve()
    folder.mkdir(parents=True, exist_ok=True)
    shutil.copyfile(workload.archive, folder / "model.mar")
    served = Container(
        docker, image, "--volume", f"{folder}:/mnt/model:ro", "--env", "AIP_STORAGE_URI=/mnt/model"
    )
    try:
        served.wait_until_healthy()
        yield Served(served.url, None)
    finally:
        served.remove()


def wait_for(url: str, body: Path, alive: Callable[[], bool]) -> None:
    """Return once a request is answered; raise DidNotStart."""
    request = urllib.request.Request(  # noqa: S310  a server that was started here
        url, body.read_bytes(), {"Content-Type": "application/json"}
    )
    deadline = time.monotonic() + START_S
    problem = "no answer"
    while time.monotonic() < deadline and alive():
        try:
            with urllib.request.urlopen(request, timeout=30):  # noqa: S310
                return
        except (OSError, urllib.error.HTTPError) as error:
            problem = str(error)
        time.sleep(0.2)
    raise DidNotStart(f"{url}: {problem}")


def _end(process: subprocess.Popen[bytes]) -> None:
    for number in (signal.SIGCONT, signal.SIGTERM, signal.SIGKILL):
        with contextlib.suppress(ProcessLookupError):
            os.killpg(process.pid, number)
        with contextlib.suppress(subprocess.TimeoutExpired):
            process.wait(0.1 if number == signal.SIGCONT else 10)
