"""The container's first process: configures, starts, supervises and stops nginx and TorchServe.

nginx opens the port at once and answers 503. The model is fetched if it is not in the image, then
TorchServe starts behind nginx on a unix socket. If the model cannot be served, the container ends
with the reason in its last log line.
"""

import os
import shutil
import signal
import sys
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path
from types import FrameType

import storage
from serving import artifact
from serving.artifact import Artifact
from serving.container.config import (
    Config,
    default_log_format,
    read_config,
    strip_carriage_returns,
)
from serving.container.errors import StartupError
from serving.container.fork_server import ForkServer
from serving.container.gpu import find_gpus
from serving.container.models import (
    Model,
    ModelFactory,
    close_listeners,
    join_names,
)
from serving.container.nginx import Nginx
from serving.container.servers import ModelGroup, SingleModel, start_servers
from serving.container.telemetry import TelemetryProcess
from serving.errors import ServingError
from serving.gpu import Gpu, find_torch_cuda, share_gpus
from serving.ignored_settings import describe_ignored_settings
from serving.logs import Log
from serving.selection import MODEL_NAME
from serving.torchserve import build_environment
from storage import files

DEFAULT_MODEL_STORE = "/opt/model-store"
"""The folder of the archives in the image."""
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
    config = read_config(os.environ, baked[0].path.stem if len(baked) == 1 else MODEL_NAME)
    as_text = config.log_format == "text"
    log.configure(as_text=as_text, level=config.log_level, labels=config.labels)
    folder = _create_run_folder()
    nginx = servers = telemetry = None
    models: list[Model] = []
    try:
        telemetry = TelemetryProcess(config, log) if config.has_telemetry else None
        port = telemetry.port if telemetry else None
        gpus = _find_gpus(config, log)
        factory = ModelFactory(
            folder=folder, config=config, gpus=gpus, telemetry_port=port, log=log
        )
        if config.storage_uri:
            models = [factory.create(folder / "store" / MODEL_NAME)]
        else:
            models = factory.create_all(baked)
            _configure(fork_server, models, log)
        log.info(f"model={join_names(models)} {config}")

        # nginx comes first: Vertex AI expects an open port within 40 s, and 503 until ready.
        nginx = Nginx(config, [model.upstream for model in models], log)
        if config.storage_uri:
            served = _fetch_models(config, baked, folder / "store", log)
            models = factory.create_all(served, models[0])
            nginx.configure([model.upstream for model in models])
            _configure(fork_server, models, log)
        if telemetry:
            telemetry.start(models)
        _log_ignored_settings(models, log)
        servers = start_servers(models, nginx, log)
        servers.run(telemetry)
    except ShutdownRequested as request:
        _ignore_signals()
        log.info(f"{request.signal.name} received; draining")
        if nginx and servers and nginx.is_ready and request.signal == signal.SIGTERM:
            nginx.start_draining()
            time.sleep(SHUTDOWN_DELAY_S)
    except ServingError:
        close_listeners(models)
        raise
    finally:
        _ignore_signals()
        _stop(nginx, servers, telemetry, fork_server)
        shutil.rmtree(folder, ignore_errors=True)


def _create_run_folder() -> Path:
    try:
        return Path(tempfile.mkdtemp(prefix="serving-"))
    except OSError as error:
        raise StartupError(f"no writable folder: {error}; mount one with --tmpfs /tmp") from error


def _find_gpus(config: Config, log: Log) -> list[Gpu]:
    """Return the GPUs with the part of their memory that the container uses; raise StartupError."""
    gpus, description = find_gpus(os.environ, find_torch_cuda())
    if description:
        log.info(description)
    if gpus and config.gpu_clients:
        gpus = share_gpus(gpus, config.gpu_clients)
        shares = ", ".join(map(str, gpus))
        log.info(f"GPU_CLIENTS={config.gpu_clients}: this container plans for {shares}")
    return gpus


def _configure(fork_server: ForkServer, models: Sequence[Model], log: Log) -> None:
    """Let the fork server import torch, as soon as the number of its threads is known."""
    config = models[0].config
    if config.patched:
        fork_server.configure(config.fork_server_socket, build_environment(config), log.write)
    else:
        fork_server.stop()


def _fetch_models(
    config: Config, baked: Sequence[Artifact], store: Path, log: Log
) -> list[Artifact]:
    """Return what AIP_STORAGE_URI holds."""
    assert config.storage_uri is not None
    log.info(f"fetching the model from {config.storage_uri}")
    source = storage.open_storage(config.storage_uri, log.info)
    paths = [each.path for each in baked]
    fetched = artifact.fetch_models(source, paths, store, config.archive_sha256, log.info)
    for served in fetched:
        name = f"model {served.path.name}: " if len(fetched) > 1 else ""
        log.info(f"{config.storage_uri}: {name}{_describe(served)}")
    return fetched


def _describe(served: Artifact) -> str:
    if not served.stock:
        return "an archive or weights of this project"
    if served.golden_request:
        return "a stock archive; health follows its golden request"
    return "a stock archive without a golden request; health follows TorchServe's workers"


def _log_ignored_settings(models: Sequence[Model], log: Log) -> None:
    lines: dict[str, list[str]] = {}
    for model in models:
        assert model.served is not None
        for line in describe_ignored_settings(model.served, os.environ):
            lines.setdefault(line, []).append(model.name)
    for line, names in lines.items():
        suffix = f" (model {', '.join(names)})" if len(names) < len(models) else ""
        log.write("WARNING", f"{line}{suffix}")


def _stop(
    nginx: Nginx | None,
    servers: SingleModel | ModelGroup | None,
    telemetry: TelemetryProcess | None,
    fork_server: ForkServer,
) -> None:
    """Finish the requests in flight, then stop the processes that have started."""
    if nginx:
        nginx.stop(DRAIN_TIMEOUT_S)
    if telemetry:
        telemetry.terminate()
    if servers:
        servers.stop(TORCHSERVE_STOP_TIMEOUT_S)
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
