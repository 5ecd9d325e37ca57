"""TorchServe as one Java process: its settings, its command line, its life.

Java is started directly. The `torchserve` command would put a Python process in between
that forwards no signal and drops Java's exit code.
"""

import contextlib
import importlib.util
import os
import re
import signal
import socket
import subprocess
import sys
import threading
from collections.abc import Callable
from pathlib import Path
from typing import NamedTuple

from serving import bytecode_patches, logs
from serving.java import Java
from serving.logs import LogRecord
from serving.resources import Layout

LOG_SETTINGS = Path(__file__).with_name("log4j2.xml")
WORKER_HOME = Path(__file__).with_name("worker")
"""Java starts the workers by the program ts/model_service_worker.py in this folder."""
MEBIBYTE = 1 << 20


class Settings(NamedTuple):
    """Everything that is chosen about one TorchServe."""

    archive: Path
    """The .mar, or the folder of an unpacked one; its stem is the model's name."""
    run: Path
    """A folder of its own for sockets, settings and unpacked archives; its path must be short."""
    layout: Layout
    address: str
    """Where predictions are served: http://HOST:PORT or unix:PATH."""
    largest_request: int = 10 * MEBIBYTE
    """Bytes. Vertex's own limit on a dedicated endpoint, and the default here."""
    queue: int = 256
    """Requests that may wait for a worker; TorchServe refuses more of them."""
    response_timeout_s: int = 50
    """How long a worker may take over one batch before it is ended and replaced."""
    give_up_after_s: int = 20
    """How long a worker that keeps dying at its start is tried again."""
    heap: int = 512 * MEBIBYTE
    """Bytes that Java may take for requests and answers."""
    native: Path | None = None
    """A folder with Netty's native library, for where files in `run` may not be executed.

    Without the library TorchServe has no unix sockets; by default Java unpacks it into `run`.
    """
    verbose: bool = False
    """Whether everything is logged that TorchServe and the model have to say."""
    jars: Path | None = None
    """A folder with model-server.jar and what it needs; None for TorchServe's own."""
    telemetry: int | None = None
    """The UDP port on loopback on which workers tell of each batch; None: they tell nobody."""

    def room_for(self, request_bytes: int) -> int:
        """Return how many requests of a size Java's heap holds.

        It keeps each up to three times: as it arrived, for the queue, and for the worker.
        """
        return self.heap * 6 // 10 // (3 * request_bytes)

    @property
    def management(self) -> str:
        """Where TorchServe tells of its models and workers."""
        return f"unix:{self.run}/management.sock"

    @property
    def model(self) -> str:
        """The name under which the archive is served."""
        return self.archive.stem


class TorchServeError(Exception):
    """TorchServe is not installed."""


def properties(settings: Settings) -> str:
    """Write config.properties; all but the inference address stays inside the machine."""
    layout, model = settings.layout, settings.model
    served = (
        f'{{"{model}": {{"1.0": {{"defaultVersion": true, "marName": "{settings.archive.name}", '
        f'"minWorkers": {layout.workers}, "maxWorkers": {layout.workers}, '
        f'"batchSize": {layout.batch_size}, "maxBatchDelay": {layout.batch_delay_ms or 100}, '
        f'"responseTimeout": {settings.response_timeout_s}, "startupTimeout": 600, '
        f'"maxRetryTimeoutInSec": {settings.give_up_after_s}}}}}}}'
    )
    chosen = {
        "inference_address": settings.address,
        "management_address": settings.management,
        "metrics_address": f"unix:{settings.run}/metrics.sock",
        "model_store": settings.archive.parent.resolve(),
        "load_models": settings.archive.name,
        "models": served,
        "max_request_size": settings.largest_request,
        # All answers of a batch together; the handler sees to it that one is not too large.
        "max_response_size": settings.heap // 2,
        "allowed_urls": "file://none.*",
        "disable_token_authorization": "true",
        "enable_model_api": "false",
        "enable_envvars_config": "false",
        "install_py_dep_per_model": "false",
        "disable_system_metrics": "true",
        "metrics_config": home() / "configs/metrics.yaml",
        "number_of_netty_threads": 1,
        "netty_client_threads": 1,
        "job_queue_size": settings.queue,
        # The handler parses the body itself: the worker takes NaN, and logs what it cannot parse.
        # (TS_DECODE_INPUT_REQUEST does nothing here: Java sets it anew from this.)
        "decode_input_request": "false",
    }
    return "".join(f"{name}={value}\n" for name, value in chosen.items())


def command(settings: Settings, java: Java, config: Path) -> list[str]:
    """Return Java's command line for these settings; raise NoTorchServe."""
    jars = settings.jars or home() / "frontend"
    patches = [bytecode_patches.NO_GRPC]
    if not settings.layout.batch_delay_ms:
        patches.append(bytecode_patches.NO_WAIT)
    classes = bytecode_patches.write(jars / "model-server.jar", settings.run / "classes", patches)
    return [
        java.executable,
        # The light collector: there is one thread that makes garbage, and little of it lives on.
        "-XX:+UseSerialGC",
        f"-Xmx{settings.heap}",
        # Out of memory it would go on, and answer some and not others.
        "-XX:+ExitOnOutOfMemoryError",
        f"-Dmodel_server_home={WORKER_HOME}",
        f"-Djava.io.tmpdir={settings.run}",
        *([f"-Djava.library.path={settings.native}"] if settings.native else []),
        f"-Dlog4j.configurationFile=file://{LOG_SETTINGS}",
        *(["-Dlevel=info"] if settings.verbose else []),
        "-cp",
        f"{classes}:{jars}/*",
        "org.pytorch.serve.ModelServer",
        "--python",
        sys.executable,
        "-f",
        str(config),
        "-s",
        str(settings.archive.parent.resolve()),
        "-ncs",
        "--disable-token-auth",
    ]


def home() -> Path:
    """Return the folder of the package `ts`; raise NoTorchServe."""
    package = importlib.util.find_spec("ts")
    if package is None or not package.submodule_search_locations:
        raise TorchServeError(
            "TorchServe is not installed beside this Python: pip install torchserve"
        )
    return Path(package.submodule_search_locations[0])


def environment(settings: Settings) -> dict[str, str]:
    """Return the environment for Java and the workers that it starts."""
    inherited = {k: v for k, v in os.environ.items() if not k.startswith(("TS_", "PYTHONPATH"))}
    return inherited | {
        "OMP_NUM_THREADS": str(settings.layout.threads),
        "PYTHONUNBUFFERED": "1",
        "WORKER_LOG_LEVEL": "DEBUG" if settings.verbose else "INFO",
        "LOG_LOCATION": str(settings.run),
        "METRICS_LOCATION": str(settings.run),
        "TELEMETRY_PORT": str(settings.telemetry or ""),
    }


class Server:
    """A TorchServe that runs; its workers share its process group and end with it."""

    def __init__(
        self, settings: Settings, java: Java, on_line: Callable[[LogRecord], None]
    ) -> None:
        """Start it and give each line that it logs to `on_line`; raise NoTorchServe."""
        config = settings.run / "config.properties"
        config.write_text(properties(settings))
        self.failures = Failures()
        self._on_line = on_line
        self.process = subprocess.Popen(
            command(settings, java, config),
            env=environment(settings),
            cwd=settings.run,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            errors="replace",
            start_new_session=True,
        )
        self._reader = threading.Thread(target=self._read, daemon=True)
        self._reader.start()

    def _read(self) -> None:
        assert self.process.stdout is not None
        with self.process.stdout as log:
            for text in log:
                line = logs.parse(text.rstrip("\n"))
                self.failures.see(line)
                self._on_line(line)

    def stop(self, grace_s: float = 20) -> int:
        """End it and its workers, by force after `grace_s`; return Java's exit code."""
        self.process.terminate()
        wait_or_kill(self.process, grace_s)
        with contextlib.suppress(ProcessLookupError):  # the usual case: no worker outlived Java
            os.killpg(self.process.pid, signal.SIGKILL)
        self._reader.join(1)
        return self.process.returncode


class Failures:
    """What the log tells of workers that could not start or load the model."""

    DIED = re.compile(r"Load model failed: |WorkerInitializationException: (?!.*did not respond)")
    NO_WORD = "a worker ended without a word, as one does that runs out of memory"
    OUR_WORD = re.compile(r"cannot serve this archive: (.+)$")
    WORKERS_WORD = re.compile(r"^((?:\w+\.)*\w*(?:Error|Exception|Bad\w+|Exit): .+)$")
    JAVAS_WORD = re.compile(
        r"^(?:Terminating due to )?(?!\S+WorkerInit)((?:\w+\.)+\w*(?:Error|Exception): .+)$"
    )

    def __init__(self) -> None:
        self.count = 0
        """Workers that ended before they were ready."""
        self._words: dict[re.Pattern[str], str] = {}

    @property
    def word(self) -> str | None:
        """The handler's own word on why, else the worker's last exception, else Java's."""
        for speaker in (self.OUR_WORD, self.WORKERS_WORD, self.JAVAS_WORD):
            if speaker in self._words:
                return self._words[speaker]
        return None

    @property
    def reason(self) -> str:
        """Why a worker ended, for people."""
        return self.word or self.NO_WORD

    def forget(self) -> None:
        """Start anew: the model has answered since."""
        self.count = 0
        self._words.clear()

    def see(self, line: LogRecord) -> None:
        """Take in one line of the log."""
        self.count += bool(self.DIED.search(line.message))
        last = self.WORKERS_WORD if line.process == "worker" else self.JAVAS_WORD
        for text in line.message.splitlines():
            for speaker in (self.OUR_WORD, last):
                if match := speaker.search(text.rstrip()):
                    self._words[speaker] = match[1]


def wait_or_kill(process: subprocess.Popen[str], within_s: float) -> None:
    """Wait for the end of a process that was told to end; kill it after `within_s`."""
    try:
        process.wait(within_s)
    except subprocess.TimeoutExpired:
        process.kill()
        process.wait()


def free_port() -> int:
    """Return a TCP port on loopback that nothing listens on now."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port: int = probe.getsockname()[1]
        return port
