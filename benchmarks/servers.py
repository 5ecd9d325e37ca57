"""The servers of one archive: ours, stock TorchServe, and the peers."""

import contextlib
import os
import shutil
import signal
import subprocess
import time
from collections.abc import Iterator
from http import HTTPStatus
from pathlib import Path
from typing import NamedTuple

from benchmarks import image
from benchmarks.errors import StartError
from benchmarks.load import Client, LoadResult, first_body, run_wrk, wait_until_idle
from benchmarks.peers import LOADED
from benchmarks.workloads import BUILD, Workload
from serving.torchserve import find_free_port

ROOT = Path(__file__).resolve().parent.parent
PEERS_BIN = BUILD.resolve() / "venv" / "bin"
"""The programs of the peers' environment, which `make bench` creates."""


class ServerSpec(NamedTuple):
    """A server and how to start it."""

    name: str
    command: str
    """Placeholders: {python}, {port}, {archive} (a .mar) and {model} (its name)."""
    route: str
    takes_parameters: bool = True
    workers: int = 0
    """0: the server's default. The threads likewise."""
    threads: int = 0

    @property
    def label(self) -> str:
        """The name, followed by the layout if it is set."""
        return f"{self.name} {self.workers}x{self.threads}" if self.workers else self.name


STOCK = ServerSpec(
    "stock TorchServe",
    "{python} -m benchmarks.stock --archive {archive} --port {port}",
    "/predictions/stock",
)
"""TorchServe as Google's samples start it, with its default workers and threads."""
PEERS = [
    ServerSpec("FastAPI", "python -m benchmarks.peers.fastapi_app", "/predict"),
    ServerSpec("BlackSheep", "python -m benchmarks.peers.blacksheep_app", "/predict"),
    ServerSpec("LitServe", "python -m benchmarks.peers.litserve_app", "/predict"),
    ServerSpec(
        "BentoML",
        "bentoml serve benchmarks.peers.bentoml_app:Inference --port {port}",
        "/predict",
        takes_parameters=False,
    ),
    ServerSpec(
        "Mosec", "python -m benchmarks.peers.mosec_app --port {port} --timeout 60000", "/inference"
    ),
]


NAMES = (*(peer.name for peer in PEERS), STOCK.name)


def all_specs(cores: int) -> list[ServerSpec]:
    """Return the peers, each with one process per core and with one process for all cores; and stock TorchServe."""
    layouts = [(cores, 1)] if cores == 1 else [(cores, 1), (1, cores)]
    return [*(peer._replace(workers=w, threads=t) for peer in PEERS for w, t in layouts), STOCK]


def our_spec(layout: str = "") -> ServerSpec:
    """Return our server without a container and nginx; `layout` is that of serving.local."""
    command = "{python} -m serving.local --archive {archive} --port {port}"
    options = f" --layout {layout}" if layout else ""
    return ServerSpec(f"ours {layout}".strip(), command + options, "/predictions/{model}")


class RunningServer(NamedTuple):
    """A server that was started; it is paused while another is measured."""

    url: str
    process_group: int | None
    """None for a container, which is not paused."""

    def resume(self) -> None:
        """Continue all processes of the server."""
        if self.process_group:
            os.killpg(self.process_group, signal.SIGCONT)

    def pause(self) -> None:
        """Stop all processes of the server: some servers poll when idle."""
        if self.process_group:
            os.killpg(self.process_group, signal.SIGSTOP)

    def measure(
        self, bodies: Path, clients: int, seconds: float, idle_s: float = 0.15
    ) -> LoadResult:
        """Resume the server, run a load on it and pause it, when the requests in its queue are done.

        `idle_s` passes before and after the load.
        """
        self.resume()
        time.sleep(idle_s)
        result = run_wrk(self.url, bodies, clients, seconds)
        wait_until_idle(self.url, bodies)
        time.sleep(idle_s)
        self.pause()
        return result


@contextlib.contextmanager
def run_server(spec: ServerSpec, workload: Workload, *, copies: int = 0) -> Iterator[RunningServer]:
    """Start a server on a free port, and yield it, paused, after it has answered a request.

    Before that, a number of its processes have loaded a copy of the model: on a GPU they lock the model's folder for
    a while, and one that is paused meanwhile would stop all others. Its log is a file in the workload's folder.
    Raises StartError.
    """
    port, model = str(find_free_port()), workload.model
    archive = str(model.archive.resolve())
    values = {"python": str(workload.python), "port": port, "archive": archive, "model": model.name}
    url = f"http://127.0.0.1:{port}{spec.route.format(**values)}"
    log = workload.scratch / f"{spec.label}.log".replace(" ", "-")
    with log.open("w") as output:
        process = subprocess.Popen(
            [word.format(**values) for word in spec.command.split(" ")],
            env=_build_environment(spec, workload) | {"PORT": port},
            stdin=subprocess.DEVNULL,
            stdout=output,
            stderr=subprocess.STDOUT,
            start_new_session=True,
            cwd=ROOT,
        )
        try:
            _wait_until_ready(url, first_body(workload.write_bodies(1)), process, log)
            _wait_for_copies(copies, process, log)
            server = RunningServer(url, process.pid)
            server.pause()
            yield server
        finally:
            _stop(process)


def _build_environment(spec: ServerSpec, workload: Workload) -> dict[str, str]:
    """Return the environment variables of a server."""
    inherited = {k: v for k, v in os.environ.items() if not k.startswith(("OMP_", "TS_"))}
    if spec.name.startswith(("ours", "stock")):
        return inherited
    return inherited | {
        "ARCHIVE": str(workload.folder.resolve()),
        "WORKERS": str(spec.workers),
        "THREADS": str(spec.threads),
        "OMP_NUM_THREADS": str(spec.threads),
        "MAX_BATCH_SIZE": str(workload.max_batch_size),
        "DEVICE": workload.device,
        "PYTHONPATH": ":".join([str(ROOT), *workload.site_packages]),
        "PATH": f"{PEERS_BIN}:{os.environ['PATH']}",
        "BENTOML_DO_NOT_TRACK": "True",
    }


@contextlib.contextmanager
def run_container(
    tag: str, docker: str, workload: Workload, request_path: str
) -> Iterator[RunningServer]:
    """Start the image `tag` with the workload's archive and REQUEST_PATH; yield it once it is healthy."""
    folder = (workload.scratch / f"served-{request_path}").resolve()
    folder.mkdir(exist_ok=True)
    shutil.copyfile(workload.model.archive, folder / "model.mar")
    mount = ("--volume", f"{folder}:/mnt/model:ro", "--env", "AIP_STORAGE_URI=/mnt/model")
    path = ("--env", f"REQUEST_PATH={request_path}")
    with image.running(docker, tag, *mount, *path) as server:
        yield RunningServer(server.url, None)


def _wait_until_ready(url: str, body: bytes, process: subprocess.Popen[bytes], log: Path) -> None:
    """Return once a request succeeds; raise StartError."""
    client = Client(url, 30)
    deadline = time.monotonic() + image.START_TIMEOUT_S
    result: int | str = "not started"
    while time.monotonic() < deadline and process.poll() is None:
        result = client.send(body=body)
        if result == HTTPStatus.OK:
            return
        time.sleep(0.2)
    reason = "the server exited" if process.poll() is not None else result
    raise StartError(f"{url}: no prediction: {reason}; {describe_log(log)}")


def _wait_for_copies(copies: int, process: subprocess.Popen[bytes], log: Path) -> None:
    """Return once as many processes have loaded the model; raise StartError."""
    deadline = time.monotonic() + image.START_TIMEOUT_S
    while (loaded := log.read_text(errors="replace").count(LOADED)) < copies:
        if process.poll() is not None or time.monotonic() > deadline:
            text = f"{loaded} of {copies} processes loaded the model"
            raise StartError(f"{text}; {describe_log(log)}")
        time.sleep(0.2)


def describe_log(log: Path) -> str:
    """Return where a log is, and its last line, which has the reason in a traceback."""
    lines = log.read_text(errors="replace").split("\n")
    return f"its log, {log}, ends with {next(filter(None, reversed(lines)), '')[:500]!r}"


def _stop(process: subprocess.Popen[bytes]) -> None:
    for number, timeout_s in ((signal.SIGCONT, 0.1), (signal.SIGTERM, 10), (signal.SIGKILL, 10)):
        with contextlib.suppress(ProcessLookupError):
            os.killpg(process.pid, number)
        with contextlib.suppress(subprocess.TimeoutExpired):
            process.wait(timeout_s)
