"""Machine types and accelerators, from a table with the date of its source."""

import re
import tomllib
from functools import cache
from pathlib import Path
from typing import Any

from google.cloud import aiplatform_v1 as v1

from emulator.errors import invalid_argument

TABLE = Path(__file__).with_name("machines.toml")
DEFAULT = "n1-standard-2"
"""The machine type of a deployed model that names none."""
GIB_PER_CORE = {"standard": 4.0, "highcpu": 1.0, "highmem": 8.0}


def check(machine: v1.MachineSpec) -> None:
    """Raise ApiError for a machine type that does not exist, or that has no such accelerators."""
    count_cores(machine.machine_type)
    count, kind = machine.accelerator_count, v1.AcceleratorType(machine.accelerator_type).name
    included = _included_count(machine.machine_type)
    if not count and kind == "ACCELERATOR_TYPE_UNSPECIFIED":
        if included:
            raise invalid_argument(
                f"Machine type {machine.machine_type} needs accelerator_type and accelerator_count {included}."
            )
        return
    accelerator = _table()["accelerators"].get(kind)
    if accelerator is None:
        raise invalid_argument(f"Accelerator type {kind} is not supported.")
    if not re.match(accelerator["machines"], machine.machine_type):
        raise invalid_argument(
            f"Accelerator {kind} is not supported for machine type {machine.machine_type}."
        )
    expected = [included] if included else accelerator["counts"]
    if count not in expected:
        raise invalid_argument(
            f"Accelerator count {count} of {kind} is not supported for machine type "
            f"{machine.machine_type}: expected {' or '.join(map(str, expected))}."
        )


def count_cores(machine_type: str) -> int:
    """Return the number of cores of a machine type; raise ApiError if the type does not exist."""
    family, _, number = machine_type.rpartition("-")
    if number.isdigit() and int(number) in _table()["machines"].get(family, ()):
        return int(number)
    cores = _table()["accelerator_machines"].get(machine_type)
    if cores is None:
        raise invalid_argument(f'Machine type "{machine_type}" is not supported.')
    return int(cores)


def memory_gib(machine_type: str) -> float:
    """Return the memory of a machine type."""
    return GIB_PER_CORE.get(machine_type.split("-")[1], 8.0) * count_cores(machine_type)


def _included_count(machine_type: str) -> int:
    """Return the number of accelerators that every machine of a type has."""
    found = re.search(r"-(\d+)g$", machine_type)
    return int(found[1]) if found else int(_table()["counts"].get(machine_type, 0))


@cache
def _table() -> dict[str, Any]:
    return tomllib.loads(TABLE.read_text())
