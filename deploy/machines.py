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
            return {name: [number]}
        if not machine_type.startswith(ATTACHABLE_FAMILY):
            return {}
        cores = self.cores[machine_type]
        return {
            name: [number for number, maximum in limits.items() if cores <= maximum]
            for name, limits in self.attachable.items()
        }


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
    )
