"""What a deployed version runs on, and how many replicas of it."""

from typing import Annotated

from pydantic import Field

from deploy.fields.types import AcceleratorType, Group, MachineType, Percent
from deploy.plan import Replicas

Replica = Annotated[int, Field(ge=1, le=1000)]


class Machines(Group):
    """What each replica runs on, and how many there are."""

    machine_type: MachineType = "e2-standard-2"
    """machine type of each replica"""
    accelerator_type: AcceleratorType = ""
    """accelerator of each replica, such as NVIDIA_TESLA_T4"""
    accelerator_count: Annotated[int, Field(ge=0, le=16)] = 0
    """number of accelerators of each replica"""
    min_replicas: Replica = 1
    """minimum number of replicas; these run, and cost, all the time"""
    max_replicas: Replica = 2
    """maximum number of replicas; the quota has to have room for all of them"""
    cpu_percent: Percent = 60
    """CPU utilization above which replicas are added (of the accelerator, if there is one)"""

    @property
    def replicas(self) -> Replicas:
        """The number of replicas. A maximum below the minimum counts as the minimum."""
        maximum = max(self.min_replicas, self.max_replicas)
        return Replicas(self.min_replicas, maximum, self.cpu_percent)
