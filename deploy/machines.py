"""The regions, machine types and accelerators of Vertex AI, from a dated table (`machines.toml`)."""

import tomllib
from dataclasses import dataclass
from functools import cache
from pathlib import Path

FILE = Path(__file__).with_name("machines.toml")
ATTACHABLE_FAMILY = "n1-"
"""The machines to which accelerators can be attached."""


@dataclass(frozen=True)
class MachineTable:
    """The contents of machines.toml."""

    regions: frozenset[str]
    cores: dict[str, int]
    """Machine type without accelerators of its own → number of cores."""
    accelerated: dict[str, tuple[str, int]]
    """Machine type → its accelerator, and the number of it."""
    attachable: dict[str, dict[int, int]]
    """Accelerator → number of it → maximum number of cores of an n1 machine."""
    coscheduled: tuple[str, ...]
    """Series of machines that can run several replicas."""
    cuda_12: tuple[str, ...]
    """Accelerators that CUDA 13 does not support."""
    accelerator_regions: dict[str, list[str]]
    """Accelerator → regions that have it for serving; an accelerator that is not listed is accepted in every one."""
    partitions: dict[str, dict[str, int]]
    """Accelerator that can be divided → size of a part → number of parts; empty if the sizes are not known."""
    quotas: dict[str, str]
    """Accelerator → the part of its quota's name that differs."""

    @property
    def machine_types(self) -> set[str]:
        """All machine types."""
        return {*self.cores, *self.accelerated}

    @property
    def accelerator_types(self) -> set[str]:
        """All accelerator types."""
        return {*self.attachable, *(name for name, _ in self.accelerated.values())}

    def accelerators(self, machine_type: str) -> dict[str, list[int]]:
        """Return the accelerators that a machine type can have, and the possible numbers of each."""
        if machine_type in self.accelerated:
            name, number = self.accelerated[machine_type]
            return {
                name: list(range(1, number + 1)) if self.is_coscheduled(machine_type) else [number]
            }
        if not machine_type.startswith(ATTACHABLE_FAMILY):
            return {}
        cores = self.cores[machine_type]
        return {
            name: [number for number, maximum in limits.items() if cores <= maximum]
            for name, limits in self.attachable.items()
        }

    def is_coscheduled(self, machine_type: str) -> bool:
        """Return whether a machine can run several replicas, each with a number of its accelerators."""
        return machine_type.partition("-")[0] in self.coscheduled

    def replicas_per_machine(self, machine_type: str, count: int, partition_size: str) -> int:
        """Return how many replicas of `count` accelerators, or of one part of that size, a machine runs."""
        if not self.is_coscheduled(machine_type) or machine_type not in self.accelerated:
            return 1
        name, number = self.accelerated[machine_type]
        parts = self.partitions.get(name, {}).get(partition_size, 1)
        return max(1, number // max(1, count)) * parts

    def find_quota(self, accelerator: str, *, spot: bool) -> str:
        """Return the metric of the quota for serving with an accelerator; "" if it is not known."""
        if accelerator not in self.quotas:
            return ""
        prefix = "preemptible_nvidia" if spot else "nvidia"
        return f"custom_model_serving_{prefix}_{self.quotas[accelerator]}_gpus"


@cache
def load_table() -> MachineTable:
    """Return the table."""
    content = tomllib.loads(FILE.read_text())
    return MachineTable(
        regions=frozenset(content["regions"]),
        cores={f"{kind}-{n}": n for kind, numbers in content["cores"].items() for n in numbers},
        accelerated={
            machine_type: next(iter(own.items()))
            for machine_type, own in content["accelerated"].items()
        },
        attachable={
            name: {int(number): cores for number, cores in limits.items()}
            for name, limits in content["attachable"].items()
        },
        coscheduled=tuple(content["coscheduled"]),
        cuda_12=tuple(content["cuda_12"]),
        accelerator_regions=content["accelerator_regions"],
        partitions=content["partitions"],
        quotas=content["quotas"],
    )
