"""How several models share a machine: the workers of each, and their GPUs."""

import math
from collections.abc import Mapping, Sequence
from typing import NamedTuple

from serving.gpu import Gpu
from serving.layout import (
    FRONTEND_BYTES,
    GPU_CONTEXT_BYTES,
    Layout,
    LayoutError,
    Machine,
    gpu_bytes,
    worker_bytes,
)

JAVA_BYTES = 130 << 20
"""What the Java of each further model needs."""
MIN_WORKER_BYTES, MIN_FRONTEND_BYTES = 100 << 20, 300 << 20
"""What they need beside the model's files if requests are small: several models without this room are refused."""
CPU = -1
"""The index of the CPU, a device without a limit of its own, among the GPUs."""


class Demand(NamedTuple):
    """What one of several models would use if it had the machine for itself."""

    layout: Layout
    model_bytes: int
    """The size of the model's files."""
    on_gpu: bool = True
    """Whether it uses a GPU if the machine has one."""

    def list_devices(self, gpus: Sequence[Gpu]) -> Sequence[int]:
        """Return the indexes of the devices that the model's workers may use."""
        return range(len(gpus)) if self.on_gpu and gpus else (CPU,)


class Share(NamedTuple):
    """What one of several models gets of the machine."""

    layout: Layout
    gpus: tuple[Gpu, ...]
    """The GPU of each worker; empty: the CPU."""


def share_machine(demands: Mapping[str, Demand], machine: Machine) -> dict[str, Share]:
    """Return the share of each of several models by its name; raise LayoutError if the memory is too small.

    Each model gets a worker. Then the model with the fewest workers gets another one, as long as the memory
    suffices and no model has more than it would have alone. The busy workers of all models share the cores. A new
    worker uses the GPU with the fewest workers of its model, and of these the one with the most free memory.
    """
    cores, memory_bytes, gpus = machine
    further_bytes = JAVA_BYTES * (len(demands) - 1)
    _check_memory(demands, memory_bytes, further_bytes)
    places = _place_models(demands, gpus)
    costs = {
        name: worker_bytes(demand.model_bytes, on_gpu=CPU not in places[name])
        for name, demand in demands.items()
    }
    gpu_costs = {name: gpu_bytes(demand.model_bytes) for name, demand in demands.items()}
    free = memory_bytes - FRONTEND_BYTES - further_bytes - sum(costs.values())
    free_on = _list_memory(gpus)
    for name, (place,) in places.items():
        free_on[place] -= gpu_costs[name]

    def find_devices(name: str) -> list[int]:
        """Return the devices with room for another worker of a model."""
        return [
            index for index in demands[name].list_devices(gpus) if gpu_costs[name] <= free_on[index]
        ]

    while growing := [
        name
        for name, demand in demands.items()
        if len(places[name]) < demand.layout.workers and costs[name] <= free and find_devices(name)
    ]:
        name = min(growing, key=lambda each: len(places[each]))
        used = places[name]
        place = min(find_devices(name), key=lambda index: (used.count(index), -free_on[index]))
        used.append(place)
        free -= costs[name]
        free_on[place] -= gpu_costs[name]
    return {
        name: Share(
            layout._replace(
                workers=len(places[name]),
                threads=max(layout.threads, cores // len(places[name])),
                source=f"{layout.source}, {len(demands)} models share {cores} cores",
            ),
            tuple(gpus[place] for place in places[name] if place != CPU),
        )
        for name, (layout, *_) in demands.items()
    }


def _list_memory(gpus: Sequence[Gpu]) -> dict[int, float]:
    """Return the memory of each device by its index, in bytes."""
    return {CPU: math.inf} | {index: gpu.memory_bytes for index, gpu in enumerate(gpus)}


def _check_memory(demands: Mapping[str, Demand], memory_bytes: int, further_bytes: int) -> None:
    """Raise LayoutError if the container's memory is too small for a worker of each model."""
    min_bytes = MIN_FRONTEND_BYTES + further_bytes
    min_bytes += sum(MIN_WORKER_BYTES + demand.model_bytes for demand in demands.values())
    if min_bytes > memory_bytes:
        raise LayoutError(
            f"{len(demands)} models with a worker each need at least {min_bytes >> 20} MiB, and the container has "
            f"{memory_bytes >> 20} MiB: give it more memory, or fewer models ({_list_sizes(demands)})"
        )


def _place_models(demands: Mapping[str, Demand], gpus: Sequence[Gpu]) -> dict[str, list[int]]:
    """Return the index of the device of each model's first worker, in a list; raise LayoutError.

    The largest model comes first. Each needs room for its files at least, and uses the device with the most of it.
    """
    free = _list_memory(gpus)
    places = {}
    for name, demand in sorted(demands.items(), key=lambda item: -item[1].model_bytes):
        place = max(demand.list_devices(gpus), key=free.__getitem__)
        free[place] -= GPU_CONTEXT_BYTES + demand.model_bytes
        if free[place] < 0:
            memory = ", ".join(map(str, gpus))
            raise LayoutError(
                f"{len(demands)} models with a worker each, which needs {GPU_CONTEXT_BYTES >> 20} MiB beside the "
                f"model's files, do not fit into the memory of {memory}: use larger GPUs, or fewer models "
                f"({_list_sizes(demands)})"
            )
        places[name] = [place]
    return places


def _list_sizes(demands: Mapping[str, Demand]) -> str:
    return ", ".join(f"{name} {demand.model_bytes >> 20} MiB" for name, demand in demands.items())
