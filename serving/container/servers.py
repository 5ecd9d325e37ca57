"""The TorchServes of the container: that of its model, or one for each of several.

One of several models that fails after it was ready is started again. Health is 503 meanwhile, but the other models
answer. The container ends if a model does not become ready.
"""

import contextlib
import functools
import queue
import shutil
import threading
from collections.abc import Sequence
from pathlib import Path

from serving import java
from serving.container.models import Model
from serving.container.nginx import Nginx
from serving.container.supervisor import ModelError, create_supervisor
from serving.container.telemetry import TelemetryProcess
from serving.logs import Log
from serving.torchserve import Server

POLL_INTERVAL_S = 0.1
TORCHSERVE_FILES = ("torchserve.sock", "management.sock", "metrics.sock", ".ts.sock.*", "models")
"""What a TorchServe leaves in its folder, and the next one creates."""


class Readiness:
    """Whether one of several models accepts predictions; health is 200 as long as all do."""

    def __init__(self, model: Model, group: "ModelGroup", nginx: Nginx) -> None:
        """Take the model's group, whose other models are created meanwhile."""
        self.process = nginx.process
        self._group, self._nginx = group, nginx
        self._file, self.was_ready = model.upstream.ready_file, False

    @property
    def is_ready(self) -> bool:
        """Whether the model accepts predictions."""
        return self._file.exists()

    def set_ready(self) -> None:
        """Accept predictions."""
        with self._group.lock:
            self._file.touch()
            self.was_ready = True
            if all(each.is_ready for each in self._group.readiness.values()):
                self._nginx.set_ready()

    def set_unavailable(self) -> None:
        """Answer 503 on the model's routes and on the health route."""
        with self._group.lock:
            self._nginx.set_unavailable()
            self._file.unlink(missing_ok=True)


class SingleModel:
    """The TorchServe of the only model."""

    def __init__(self, model: Model, nginx: Nginx, log: Log) -> None:
        """Start it."""
        self._model, self._nginx, self._log = model, nginx, log
        self._server = Server(model.config, java.find(), log.forward)

    def run(self, telemetry: TelemetryProcess | None) -> None:
        """Serve until the model fails; raise ServingError."""
        create_supervisor(self._model, self._nginx, self._server, self._log, telemetry).run()

    def stop(self, timeout_s: float) -> None:
        """Stop TorchServe."""
        self._server.stop(timeout_s)


class ModelGroup:
    """The TorchServes of several models, and the threads that supervise them."""

    def __init__(self, models: Sequence[Model], nginx: Nginx, log: Log) -> None:
        """Take the models; `run` starts them."""
        self._models, self._nginx, self._log = models, nginx, log
        self._java = java.find()
        self.lock = threading.Lock()
        self.readiness = {model.name: Readiness(model, self, nginx) for model in models}
        self._servers: dict[str, Server] = {}
        self._failures: queue.SimpleQueue[Exception] = queue.SimpleQueue()
        self._is_stopping = False

    def run(self, telemetry: TelemetryProcess | None) -> None:
        """Serve until a model does not become ready; raise ServingError."""
        for model in self._models:
            threading.Thread(target=self._serve, args=[model], daemon=True).start()
        while True:
            with contextlib.suppress(queue.Empty):
                raise self._failures.get(timeout=POLL_INTERVAL_S)
            if telemetry:
                telemetry.supervise()

    def _serve(self, model: Model) -> None:
        """Serve a model, and start it again when it fails."""
        try:
            while server := self._start(model):
                self._supervise(model, server)
        except Exception as error:  # noqa: BLE001  `run` raises it
            self._failures.put(error)

    def _start(self, model: Model) -> Server | None:
        """Start the TorchServe of a model, unless all are being stopped."""
        forward = functools.partial(self._log.forward, model=model.name)
        with self.lock:
            if self._is_stopping:
                return None
            server = Server(model.config, self._java, forward)
            self._servers[model.name] = server
            return server

    def _supervise(self, model: Model, server: Server) -> None:
        """Return when a model fails that was ready; raise ServingError if it does not become ready."""
        readiness = self.readiness[model.name]
        readiness.was_ready = False
        try:
            create_supervisor(model, readiness, server, self._log).run()
        except ModelError as error:
            message = f"{model.label}{error}"
            if not readiness.was_ready and not self._is_stopping:
                raise ModelError(message) from error
        if self._is_stopping:
            return
        readiness.set_unavailable()
        self._log.write("ERROR", f"{message}; it is started again, and the others answer")
        server.stop()
        _remove_files(model.config.run_dir)

    def stop(self, timeout_s: float) -> None:
        """Stop all TorchServes at once."""
        with self.lock:
            self._is_stopping = True
        for server in self._servers.values():
            server.process.terminate()
        for server in self._servers.values():
            server.stop(timeout_s)


def start_servers(models: Sequence[Model], nginx: Nginx, log: Log) -> SingleModel | ModelGroup:
    """Return what serves the models once `run` is called."""
    for model in models:
        log.info(f"Starting TorchServe: {model.label}{model.config.summary}")
    return ModelGroup(models, nginx, log) if len(models) > 1 else SingleModel(models[0], nginx, log)


def _remove_files(folder: Path) -> None:
    for pattern in TORCHSERVE_FILES:
        for path in folder.glob(pattern):
            if path.is_dir():
                shutil.rmtree(path)
            else:
                path.unlink()
