"""The container's first process: configures, starts, supervises and stops nginx and TorchServe.

nginx opens the port at once and answers 503. The model is fetched if it is not in the image, then
TorchServe starts behind nginx on a unix socket. If the model cannot be served, the container ends
with the reason in its last log line.
"""

import dataclasses
import os
import shutil
import signal
import sys
import tempfile
import time
from pathlib import Path
from types import FrameType

import storage
from serving import artifact, java, probe, resources
from serving.artifact import Artifact
from serving.container.config import (
    Config,
    default_log_format,
    read_config,
    strip_carriage_returns,
)
from serving.container.errors import StartupError
from serving.container.fork_server import ForkServer
from serving.container.listener import Listener
from serving.container.nginx import Nginx
from serving.container.supervisor import Supervisor
from serving.container.telemetry import TelemetryProcess
from serving.errors import ServingError
from serving.ignored_settings import describe_ignored_settings
from serving.layout import MIN_HEAP_BYTES, choose_layout, heap_bytes
from serving.logs import Log
from serving.stock import manifest
from serving.torchserve import (
    DEFAULT_RESPONSE_TIMEOUT_S,
    Server,
    TorchServeConfig,
    build_environment,
)
from storage import files

DEFAULT_MODEL_STORE = "/opt/model-store"
"""The folder of the archive in the image."""
TORCHSERVE_JARS = Path("/opt/torchserve")
"""TorchServe's Java, and Netty's native library: Java would unpack it in /tmp, which may be noexec."""
SHUTDOWN_DELAY_S = 5
"""After SIGTERM, health is 503 but predictions are accepted for this long: load balancers need
time to react."""
DRAIN_TIMEOUT_S = 15
"""How long the requests in flight may take after that."""
TORCHSERVE_STOP_TIMEOUT_S = 3
TELEMETRY_STOP_TIMEOUT_S = 1


class ShutdownRequested(BaseException):
    """The process received a signal to stop."""

    def __init__(self, number: int) -> None:
        """Take the signal's number."""
        self.signal = signal.Signals(number)


def run(log: Log, fork_server: ForkServer) -> None:
    """Serve until a signal to stop; raise ServingError and others if the model cannot be served."""
    baked = artifact.find_baked_in(Path(os.environ.get("MODEL_STORE") or DEFAULT_MODEL_STORE))
    config = read_config(os.environ, baked.path.stem)
    as_text = config.log_format == "text"
    log.configure(as_text=as_text, level=config.log_level, labels=config.labels)
    folder = _create_run_folder()
    nginx = server = telemetry = listener = None
    try:
        telemetry = TelemetryProcess(config, log) if config.has_telemetry else None
        store = folder / "store"
        path = store / artifact.MODEL_NAME if config.storage_uri else baked.path
        listener = Listener(folder, log) if config.request_path == "direct" else None
        socket = listener.path if listener else folder / "torchserve.sock"
        server_config = _server_config(path, folder, config, listener)
        if not config.storage_uri:
            server_config = _apply_model_config(server_config, baked, config)
            _configure(fork_server, server_config, log)
        if telemetry:
            server_config = dataclasses.replace(server_config, telemetry_port=telemetry.port)
        log.info(f"model={server_config.model_name} {config}")

        # nginx comes first: Vertex AI expects an open port within 40 s, and 503 until ready.
        nginx = Nginx(config, server_config, socket, log)
        served = _fetch_model(config, baked, store, log)
        if config.storage_uri:
            server_config = _apply_model_config(server_config, served, config)
            nginx.set_timeout(server_config)
        if telemetry:
            telemetry.start(server_config, manifest.read_manifest(served.path).version)
        if config.storage_uri:
            _configure(fork_server, server_config, log)
        for line in describe_ignored_settings(served, os.environ):
            log.write("WARNING", line)
        log.info(f"Starting TorchServe: {server_config.summary}")
        server = Server(server_config, java.find(), log.forward)
        Supervisor(
            nginx=nginx,
            server=server,
            probe=probe.create_probe(server_config, served.golden_request, f"unix:{socket}"),
            log=log,
            telemetry=telemetry,
            extra_timeout_s=max(server_config.response_timeout_s - DEFAULT_RESPONSE_TIMEOUT_S, 0),
        ).run()
    except ShutdownRequested as request:
        _ignore_signals()
        log.info(f"{request.signal.name} received; draining")
        if nginx and server and nginx.is_ready and request.signal == signal.SIGTERM:
            nginx.start_draining()
            time.sleep(SHUTDOWN_DELAY_S)
    except ServingError:
        if listener:
            listener.close()
        raise
    finally:
        _ignore_signals()
        _stop(nginx, server, telemetry, fork_server)
        shutil.rmtree(folder, ignore_errors=True)


def _create_run_folder() -> Path:
    try:
        return Path(tempfile.mkdtemp(prefix="serving-"))
    except OSError as error:
        raise StartupError(f"no writable folder: {error}; mount one with --tmpfs /tmp") from error


def _server_config(
    path: Path, folder: Path, config: Config, listener: Listener | None
) -> TorchServeConfig:
    memory = resources.memory_limit()
    return TorchServeConfig(
        archive=path,
        run_dir=folder,
        layout=choose_layout(resources.cores(), memory),
        address=f"unix:{folder}/torchserve.sock",
        max_request_bytes=config.max_request_bytes,
        heap_bytes=MIN_HEAP_BYTES if listener else heap_bytes(memory),
        listener_socket=listener.handout_path if listener else None,
        verbose=config.log_level == "DEBUG",
        native_library_dir=TORCHSERVE_JARS,
        jar_dir=TORCHSERVE_JARS,
        has_telemetry=config.has_telemetry,
        patched=config.torchserve_patches,
    )


def _apply_model_config(
    server_config: TorchServeConfig, served: Artifact, config: Config
) -> TorchServeConfig:
    """Return the configuration with the archive's own settings, which variables override."""
    applied = artifact.apply_model_config(server_config, served)
    timeout_s = config.response_timeout_s or applied.response_timeout_s
    return dataclasses.replace(applied, response_timeout_s=timeout_s)


def _configure(fork_server: ForkServer, server_config: TorchServeConfig, log: Log) -> None:
    """Let the fork server import torch, as soon as the number of its threads is known."""
    if server_config.patched:
        environment = build_environment(server_config)
        fork_server.configure(server_config.fork_server_socket, environment, log.write)
    else:
        fork_server.stop()


def _fetch_model(config: Config, baked: Artifact, store: Path, log: Log) -> Artifact:
    """Return the archive in the image, or what AIP_STORAGE_URI holds."""
    uri = config.storage_uri
    if not uri:
        return baked
    log.info(f"fetching the model from {uri}")
    source = storage.open_storage(uri, log.info)
    served = artifact.fetch(source, baked.path, store, config.archive_sha256, log.info)
    if not served.stock:
        kind = "an archive or weights of this project"
    elif served.golden_request:
        kind = "a stock archive; health follows its golden request"
    else:
        kind = "a stock archive without a golden request; health follows TorchServe's workers"
    log.info(f"{uri}: {kind}")
    return served


def _stop(
    nginx: Nginx | None,
    server: Server | None,
    telemetry: TelemetryProcess | None,
    fork_server: ForkServer,
) -> None:
    """Finish the requests in flight, then stop the processes that have started."""
    if nginx:
        nginx.stop(DRAIN_TIMEOUT_S)
    if telemetry:
        telemetry.terminate()
    if server:
        server.stop(TORCHSERVE_STOP_TIMEOUT_S)
    fork_server.stop()
    if telemetry:
        telemetry.stop(TELEMETRY_STOP_TIMEOUT_S)


def _request_shutdown(number: int, _frame: FrameType | None) -> None:
    raise ShutdownRequested(number)


def _ignore_signals() -> None:
    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, signal.SIG_IGN)


def main(fork_server: ForkServer) -> None:
    """Serve the model; exit with 1 and the reason as the last log line if that fails."""
    os.environ.update(strip_carriage_returns(os.environ))
    log = Log(as_text=(os.environ.get("LOG_FORMAT") or default_log_format()) == "text")
    log.install_excepthook("entrypoint")
    try:
        for number in (signal.SIGTERM, signal.SIGINT):
            signal.signal(number, _request_shutdown)
        run(log, fork_server)
    except ShutdownRequested as request:
        log.info(f"{request.signal.name} received")
    except (ServingError, files.StorageError) as error:
        log.write("CRITICAL", f"cannot serve: {error}")
        sys.exit(1)
