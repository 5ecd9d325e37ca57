"""Regions, machine types and accelerators, from the dated table that deploy/ has for its settings."""

import re
import tomllib
from functools import cache
from pathlib import Path
from typing import Any

from google.cloud import aiplatform_v1 as v1

from emulator.errors import ApiError, invalid_argument

TABLE = Path(__file__).parents[1] / "deploy" / "machines.toml"
DEFAULT = "n1-standard-2"
"""The machine type of a deployed model that names none."""
GIB_PER_CORE = {"standard": 4.0, "highcpu": 1.0, "highmem": 8.0}
CORES_PER_ACCELERATOR = {
    "a2-megagpu": 6,
    "a2": 12,
    "a3-ultragpu": 28,
    "a3": 26,
    "a4x": 35,
    "a4": 28,
}
"""For machine types whose name has the number of accelerators in the place of that of cores."""
NO_ACCELERATOR = "ACCELERATOR_TYPE_UNSPECIFIED"


def check(machine: v1.MachineSpec) -> None:
    """Raise ApiError for a machine type that does not exist, or that has no such accelerators."""
    name, count = machine.machine_type, machine.accelerator_count
    cores, kind = count_cores(name), v1.AcceleratorType(machine.accelerator_type).name
    if included := _table()["accelerated"].get(name):
        ((expected, number),) = included.items()
        if (kind, count) != (expected, number):
            raise invalid_argument(
                f"Machine type {name} needs accelerator_type {expected} and accelerator_count {number}."
            )
        return
    if not count and kind == NO_ACCELERATOR:
        return
    limits = _table()["attachable"].get(kind)
    if limits is None or not name.startswith("n1-"):
        raise invalid_argument(f"Accelerator {kind} is not supported for machine type {name}.")
    counts = [number for number, max_cores in limits.items() if cores <= max_cores]
    if str(count) not in counts:
        raise invalid_argument(
            f"Accelerator count {count} of {kind} is not supported for machine type {name}: "
            f"expected {' or '.join(counts)}."
        )


def count_cores(machine_type: str) -> int:
    """Return the number of cores of a machine type; raise ApiError if the type does not exist."""
    family, _, number = machine_type.rpartition("-")
    if number.isdigit() and int(number) in _table()["cores"].get(family, ()):
        return int(number)
    if machine_type not in _table()["accelerated"]:
        raise invalid_argument(f'Machine type "{machine_type}" is not supported.')
    if number.isdigit():
        return int(number)
    per_accelerator = next(
        n for start, n in CORES_PER_ACCELERATOR.items() if family.startswith(start)
    )
    return per_accelerator * int(number.removesuffix("g"))


def memory_gib(machine_type: str) -> float:
    """Return the memory of a machine type."""
    return GIB_PER_CORE.get(machine_type.split("-")[1], 8.0) * count_cores(machine_type)


def regions() -> list[str]:
    """Return the regions of Vertex AI."""
    return list(_table()["regions"])


def check_region(path: str) -> None:
    """Raise ApiError if a path names a location that does not exist."""
    found = re.search(r"/locations/([^/:?]+)", path)
    if found and found[1] not in {*regions(), "global", "-"}:
        message = f"Permission denied on 'locations/{found[1]}' (or it may not exist)."
        raise ApiError("PERMISSION_DENIED", message)


@cache
def _table() -> dict[str, Any]:
    return tomllib.loads(TABLE.read_text())
