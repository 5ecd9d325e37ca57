"""The configuration of one TorchServe, from which its properties, command line and environment follow."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from serving.gpu import Gpu
from serving.layout import Layout

MEBIBYTE = 1 << 20
DEFAULT_RESPONSE_TIMEOUT_S = 50


@dataclass(frozen=True, kw_only=True)
class TorchServeConfig:
    """The configuration of one TorchServe."""

    archive: Path
    """The .mar, or the folder of an unpacked one; its stem is the model's name."""
    run_dir: Path
    """A folder of its own for sockets, configuration and unpacked archives. Its path must be short."""
    shared_dir: Path | None = None
    """The folder for what several TorchServes in a container share; None: `run_dir`, as there is only this one."""
    shared_workers: int = 0
    """The workers of all TorchServes in the container, if there are several."""
    layout: Layout
    address: str
    """Where predictions are served: http://HOST:PORT or unix:PATH."""
    max_request_bytes: int = 10 * MEBIBYTE
    """Vertex AI's own limit on a dedicated endpoint is the default."""
    response_timeout_s: int = DEFAULT_RESPONSE_TIMEOUT_S
    """The time for a response. A worker whose handler takes longer for a batch is interrupted."""
    retry_timeout_s: int = 20
    """How long a worker that keeps failing at startup is restarted."""
    gpus: Sequence[Gpu] | None = None
    """The GPUs of the workers in turn; empty: the CPU; None: torch has no CUDA, TorchServe searches for others."""
    shared_gpu_workers: int = 0
    """The maximum number of workers on one of the GPUs, of all TorchServes in the container, if there are several."""
    gpu_clients: int = 1
    """The containers that use each of the GPUs in turns, this one included."""
    heap_bytes: int = 512 * MEBIBYTE
    """Java's memory for requests and responses."""
    listener_socket: Path | None = None
    """The socket that hands out the listening socket of the direct path; None: Java passes requests on."""
    native_library_dir: Path | None = None
    """A folder with Netty's native library, needed if files in `run_dir` may not be executed.

    TorchServe has no unix sockets without the library. By default Java unpacks it into `run_dir`.
    """
    verbose: bool = False
    """Whether TorchServe's and the model's debug messages are logged."""
    jar_dir: Path | None = None
    """A folder with model-server.jar and its libraries; None for the `torchserve` package's own."""
    has_telemetry: bool = False
    """Whether the workers keep totals in `run_dir` for the telemetry process."""
    telemetry_port: int | None = None
    """The UDP port on loopback that receives the workers' events for traces; None sends none."""
    patched: bool = True
    """Whether the bytecode patches and the worker of this project are used: docs/decisions.md."""

    @property
    def management_address(self) -> str:
        """The address of the management API, which lists models and workers."""
        return f"unix:{self.run_dir}/management.sock"

    @property
    def container_dir(self) -> Path:
        """The folder for the fork server, the totals of the workers and the shared cores."""
        return self.shared_dir or self.run_dir

    @property
    def fork_server_socket(self) -> Path:
        """Where the worker of this project finds a process to fork from, if there is one."""
        return self.container_dir / "fork-server.sock"

    @property
    def model_name(self) -> str:
        """The name under which the archive is served."""
        return self.archive.stem

    @property
    def summary(self) -> str:
        """The layout, the request path and whether TorchServe is patched, for the log."""
        path = "direct" if self.listener_socket else "torchserve"
        return f"{self.layout}, request path {path}, patches {'on' if self.patched else 'off'}"
