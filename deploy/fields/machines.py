"""What each replica runs on, and how many there are."""

from typing import Annotated

from pydantic import Field

from deploy.fields.types import (
    RESOURCE_ID,
    AcceleratorType,
    Group,
    MachineType,
    PartitionSize,
    Percent,
    SharedClients,
    matching,
)

Replica = Annotated[int, Field(ge=1, le=1000)]
IdleMinutes = Annotated[int, Field(ge=5, le=480)]


class Machines(Group):
    """What each replica runs on, and how many there are."""

    machine_type: MachineType = "e2-standard-2"
    """machine type of each replica"""
    accelerator_type: AcceleratorType = ""
    """accelerator of each replica, such as NVIDIA_TESLA_T4"""
    accelerator_count: Annotated[int, Field(ge=0, le=16)] = 0
    """number of accelerators of each replica"""
    gpu_partition_size: PartitionSize = ""
    """part of an accelerator (MIG) that each replica gets, such as 1g.10gb; empty: whole accelerators (preview)"""
    gpu_max_shared_clients: SharedClients = 0
    """on GKE only: number of pods that share an accelerator in turns (time sharing); 0: none"""
    min_replicas: Annotated[int, Field(ge=0, le=1000)] = 1
    """minimum number of replicas; these run, and cost, all the time. 0: none without requests (preview)"""
    max_replicas: Replica = 2
    """maximum number of replicas; all of them count in the quota"""
    cpu_percent: Percent = 60
    """CPU utilization above which replicas are added"""
    gpu_percent: Percent = 60
    """utilization of the accelerators above which replicas are added"""
    requests_per_minute: Annotated[int, Field(ge=0, le=1_000_000)] = 0
    """requests per minute of a replica above which replicas are added; 0: not by requests"""
    idle_minutes: IdleMinutes = 60
    """with min_replicas = 0: minutes without requests after which no replica is left"""
    min_up_minutes: IdleMinutes = 10
    """with min_replicas = 0: minutes that a started replica stays at least"""
    spot: bool = False
    """use Spot VMs: cheaper, but Google may stop them at any time"""
    reservation: Annotated[
        str,
        matching(
            rf"any|projects/[^/\s]+/zones/[a-z0-9-]+/reservations/{RESOURCE_ID}|",
            "any, or projects/PROJECT/zones/ZONE/reservations/NAME",
        ),
    ] = ""
    """reservation of Compute Engine to use: its resource name, or any; empty: none"""
    rolling: bool = False
    """replace the serving version replica by replica, without a second set of machines (preview)"""
    max_surge: Annotated[int, Field(ge=0, le=1000)] = 1
    """with rolling: replicas that may run in addition"""
    max_unavailable: Annotated[int, Field(ge=0, le=1000)] = 0
    """with rolling: replicas that may be missing"""
