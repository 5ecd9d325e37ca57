"""The emulator's configuration: quotas, limits, timeouts, and the addresses of the programs beside it."""

from collections.abc import Mapping
from dataclasses import dataclass, field

from contract.docker import Docker


@dataclass(frozen=True, kw_only=True)
class EmulatorConfig:
    """How strict the emulator is. The defaults are Google's documented ones, except ready_timeout_s."""

    docker: str = "docker"
    """Name or path of the Docker client."""
    storage_url: str = ""
    """URL of the storage emulator, reachable from this machine and from containers."""
    registry: str = ""
    """host:port of the registry that holds Artifact Registry's images."""
    images: Mapping[str, str] = field(default_factory=dict)
    """Image name → ID of a local image to use for it."""
    substitutions: Mapping[str, str] = field(default_factory=dict)
    """Substitutions that override those of a build, if the build has them."""
    ready_timeout_s: float = 180
    """How long a deployed model may take to become healthy. Google waits about 20 minutes."""
    cpu_quota: int = 42
    """The quota custom_model_serving_cpus."""
    accelerator_quota: int = 0
    """The quota of each accelerator type; 0 in a new project."""
    max_shared_bytes: int = 1_572_864
    """Maximum size of a request, and of a response, at a shared endpoint."""
    max_dedicated_bytes: int = 10 * 2**20
    shared_timeout_s: float = 60
    """How long a prediction at a shared endpoint may take."""
    dedicated_timeout_s: float = 600
    max_idle_s: float = 3600 * 8
    """Maximum of the periods of scale to zero; Google's minimum of 5 minutes is long for a test."""
    probe_interval_s: float = 10
    """Interval between health probes of a deployed model's container."""

    @property
    def engine(self) -> Docker:
        """The client of the Docker engine that runs the containers."""
        return Docker(self.docker)
