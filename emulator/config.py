"""Configuration of the emulator: quotas, limits, timeouts and the programs it uses."""

from collections.abc import Mapping
from dataclasses import dataclass, field

from contract.docker import Docker


@dataclass(frozen=True, kw_only=True)
class EmulatorConfig:
    """How strict this Google is; the defaults are the documented ones but for the patience."""

    docker: str = "docker"
    storage: str = ""
    """URL of the storage emulator, as clients on this machine and containers reach it."""
    registry: str = ""
    """host:port of the registry that stands for Artifact Registry."""
    images: Mapping[str, str] = field(default_factory=dict)
    """Names that mean an image on this machine: name → ID."""
    substitutions: Mapping[str, str] = field(default_factory=dict)
    """Values that Cloud Build takes in place of a build's own, if it has them."""
    ready_timeout_s: float = 180
    """How long a model may take to get healthy. Google waits some 20 minutes."""
    cpus: int = 42
    """The quota custom_model_serving_cpus."""
    accelerators: int = 0
    """The quota of each kind of accelerator; a new project has none."""
    max_shared_bytes: int = 1_572_864
    max_dedicated_bytes: int = 10 * 2**20
    shared_timeout_s: float = 60
    dedicated_timeout_s: float = 600
    probe_interval_s: float = 10
    """How often the container of a deployed model is probed."""

    @property
    def engine(self) -> Docker:
        """The engine that runs containers."""
        return Docker(self.docker)
