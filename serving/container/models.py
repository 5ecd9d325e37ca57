"""The models of the container: a folder, sockets and a layout for each."""

import dataclasses
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from serving import artifact, resources
from serving.artifact import Artifact
from serving.container.config import Config
from serving.container.listener import Listener
from serving.container.nginx_config import Upstream
from serving.gpu import Gpu
from serving.layout import MIN_HEAP_BYTES, LayoutError, choose_cpu_layout, heap_bytes, read_machine
from serving.logs import Log
from serving.sharing import Demand, share_machine
from serving.stock import manifest
from serving.torchserve_config import TorchServeConfig

TORCHSERVE_JARS = Path("/opt/torchserve")
"""TorchServe's Java, and Netty's native library: Java would unpack it in /tmp, which may be noexec."""


@dataclass
class Model:
    """A model that the container serves."""

    config: TorchServeConfig
    listener: Listener | None
    """None: nginx passes requests to TorchServe."""
    served: Artifact | None = None
    """None until the model is fetched."""

    @property
    def name(self) -> str:
        """The name in the model's route."""
        return self.config.model_name

    @property
    def label(self) -> str:
        """The beginning of log lines about the model; empty if it is the only one."""
        return f"model {self.name}: " if self.config.shared_dir else ""

    @property
    def upstream(self) -> Upstream:
        """What nginx passes the model's requests to."""
        own = self.config.run_dir / "torchserve.sock"
        return Upstream(self.config, self.listener.path if self.listener else own)


@dataclass(frozen=True, kw_only=True)
class ModelFactory:
    """Creates the container's models."""

    folder: Path
    """For the container's sockets and configuration; several models have a subfolder each."""
    config: Config
    gpus: Sequence[Gpu] = ()
    """The devices that the models use."""
    telemetry_port: int | None
    """The UDP port on loopback that receives the workers' events; None if no traces are exported."""
    log: Log

    def create(self, archive: Path, name: str = "") -> Model:
        """Return a model with its sockets and a layout that does not depend on its files.

        `name` is given if there are several models.
        """
        run_dir = self.folder / "models" / name if name else self.folder
        run_dir.mkdir(parents=True, exist_ok=True)
        memory, config = resources.memory_limit(), self.config
        listener = Listener(run_dir, self.log) if config.request_path == "direct" else None
        server_config = TorchServeConfig(
            archive=archive,
            run_dir=run_dir,
            shared_dir=self.folder if name else None,
            layout=choose_cpu_layout(resources.cores(), memory),
            address=f"unix:{run_dir}/torchserve.sock",
            max_request_bytes=config.max_request_bytes,
            heap_bytes=MIN_HEAP_BYTES if listener else heap_bytes(memory),
            listener_socket=listener.handout_path if listener else None,
            verbose=config.log_level == "DEBUG",
            native_library_dir=TORCHSERVE_JARS,
            jar_dir=TORCHSERVE_JARS,
            has_telemetry=config.has_telemetry,
            telemetry_port=self.telemetry_port,
            patched=config.torchserve_patches,
            gpus=self.gpus,
            gpu_clients=config.gpu_clients or 1,
        )
        return Model(server_config, listener)

    def create_all(self, served: Sequence[Artifact], only: Model | None = None) -> list[Model]:
        """Return the model or several, configured by their files.

        `only` is the model that was created before it was known whether there are several.
        Raises ArchiveError and LayoutError.
        """
        if len(served) == 1:
            models = [only or self.create(served[0].path)]
        else:
            models = [self.create(each.path, each.path.stem) for each in served]
        _configure_models(models, served, self.config)
        if len(models) > 1:
            _share_machine(models, self.gpus)
        return models


def _configure_models(models: Sequence[Model], served: Sequence[Artifact], config: Config) -> None:
    """Set the layouts and times for a response by the models' files; variables override these.

    Raises ArchiveError and LayoutError.
    """
    for model, each in zip(models, served, strict=True):
        model.served = each
        try:
            applied = artifact.apply_model_config(model.config, each)
        except LayoutError as error:
            raise LayoutError(f"{model.label}{error}") from error
        timeout_s = config.response_timeout_s or applied.response_timeout_s
        model.config = dataclasses.replace(applied, response_timeout_s=timeout_s)


def _share_machine(models: Sequence[Model], gpus: Sequence[Gpu]) -> None:
    """Give each of several models its share of the machine; raise LayoutError."""
    machine, demands = read_machine(gpus), {}
    for model in models:
        own = model.config
        size = manifest.content_bytes(own.archive)
        demands[model.name] = Demand(own.layout, size, on_gpu=bool(own.gpus))
    shares = share_machine(demands, machine)
    on_gpu = Counter(gpu for share in shares.values() for gpu in share.gpus)
    for model in models:
        own, share = model.config, shares[model.name]
        model.config = dataclasses.replace(
            own,
            layout=share.layout,
            shared_workers=sum(share.layout.workers for share in shares.values()),
            gpus=share.gpus,
            shared_gpu_workers=max((on_gpu[gpu] for gpu in share.gpus), default=0),
            heap_bytes=own.heap_bytes
            if model.listener
            else heap_bytes(machine.memory_bytes // len(models)),
        )


def join_names(models: Sequence[Model]) -> str:
    """Return the names of all models."""
    return ",".join(model.name for model in models)


def close_listeners(models: Sequence[Model]) -> None:
    """Let the requests that wait for workers fail at once, if no worker is left."""
    for model in models:
        if model.listener:
            model.listener.close()
