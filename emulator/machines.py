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


def check(machine: v1.MachineSpec, region: str) -> None:
    """Raise ApiError for a machine type that does not exist, or that has no such accelerators in the region."""
    name, count = machine.machine_type, machine.accelerator_count
    kind, possible = v1.AcceleratorType(machine.accelerator_type).name, _accelerators(name)
    if kind == NO_ACCELERATOR and not count and name not in _table()["accelerated"]:
        if machine.gpu_partition_size:
            raise invalid_argument("gpu_partition_size needs an accelerator_type.")
        return
    if kind not in possible:
        raise invalid_argument(f'Accelerator "{kind}" is not supported for machine type "{name}"')
    if count not in possible[kind]:
        raise invalid_argument(
            f'The accelerator count "{count}" is not allowed. The allowed numbers of accelerator "{kind}" to use '
            f'with machine type "{name}" are: {possible[kind]}.'
        )
    if region not in _table()["accelerator_regions"].get(kind, [region]):
        raise invalid_argument(f'Accelerator "{kind}" is not supported in region "{region}"')
    if machine.gpu_partition_size:
        _check_part(kind, count, machine.gpu_partition_size)


def _accelerators(machine_type: str) -> dict[str, list[int]]:
    """Return the accelerators of a machine type and their possible numbers; raise ApiError if it does not exist."""
    cores, table = count_cores(machine_type), _table()
    if own := table["accelerated"].get(machine_type):
        is_coscheduled = machine_type.partition("-")[0] in table["coscheduled"]
        return {
            kind: list(range(1, number + 1)) if is_coscheduled else [number]
            for kind, number in own.items()
        }
    if not machine_type.startswith("n1-"):
        return {}
    return {
        kind: [int(number) for number, max_cores in limits.items() if cores <= max_cores]
        for kind, limits in table["attachable"].items()
    }


def _check_part(kind: str, count: int, size: str) -> None:
    """Raise ApiError if an accelerator has no part of that size, or if more than one is requested."""
    sizes = _table()["partitions"].get(kind)
    if sizes is None or (sizes and size not in sizes):
        raise invalid_argument(
            f'GPU partition size "{size}" is not supported for accelerator "{kind}"'
        )
    if count != 1:
        raise invalid_argument("accelerator_count must be 1 if gpu_partition_size is set.")


def quota_name(kind: str) -> str:
    """Return the name of the limit of an accelerator in errors."""
    name = _table()["quotas"].get(kind, kind.removeprefix("NVIDIA_")).upper().replace("_", "")
    return f"CustomModelServing{name}GPUsPerProjectPerRegion"


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
