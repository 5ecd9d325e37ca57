"""What differs between Vertex AI, GKE, Cloud Run and Cloud Functions; docs/scale.md has the sources."""

import math
from dataclasses import dataclass, replace
from typing import NamedTuple

from deploy.estimate.replica import Replica
from deploy.estimate.scaler import Rules
from deploy.estimate.simulate import Setting

VERTEX, GKE, RUN, FUNCTIONS = "Vertex AI", "GKE", "Cloud Run", "Cloud Functions"
QUARTER_MINUTE, MINUTE = 15.0, 60.0
RUN_MOST = 100
"""Instances, by Cloud Run's default."""
VERTEX_PROVISION_S, GKE_PROVISION_S, RUN_PROVISION_S = 180.0, 120.0, 2.0
"""Guessed: a machine and the image's way to it, before the container starts."""
MACHINE_RULES = Rules(
    every_s=QUARTER_MINUTE,
    target=0.6,
    see_s=QUARTER_MINUTE,
    mean_s=QUARTER_MINUTE,
    keep_s=5 * MINUTE,
)
"""Vertex AI's, where the age of the figures is guessed; GKE's too, which has a tolerance besides."""
HPA_TOLERANCE = 0.1
RUN_RULES = Rules(every_s=5, target=0.6, see_s=0, mean_s=MINUTE, keep_s=15 * MINUTE, at_once=True)
RUN_FULL = 0.6
"""Of an instance's concurrency: what Cloud Run aims at."""
RUN_PATIENCE_S, RUN_PATIENCE_STARTS = 10.0, 3.5
"""A request waits for an instance so long, or so many times a start, whichever is longer."""


class Instance(NamedTuple):
    """An instance of Cloud Run, as docs/functions.md deploys it."""

    vcpus: int
    gib: float
    concurrency: int


RUN_INSTANCE = Instance(1, 2, 16)
FUNCTION_INSTANCE = Instance(1, 2, 4)


class Start(NamedTuple):
    """How long a new replica takes."""

    provision_s: float
    """A machine, and the image's way to it."""
    container_s: float
    """From the container's start to its first answer."""

    @property
    def seconds(self) -> float:
        """All of it."""
        return self.provision_s + self.container_s


class Wish(NamedTuple):
    """What is asked for."""

    least: int
    """Machines kept warm."""
    most_instances: int
    target: float
    """Of a machine's processor, 0 to 1."""
    late_ms: float
    cold: bool


@dataclass(frozen=True)
class Product:
    """One way to serve, with all that the simulation needs."""

    name: str
    on: str
    """The machine or the instance, in words."""
    setting: Setting
    instance: Instance | None = None
    """None: machines by the hour."""

    @property
    def delay_s(self) -> float:
        """From more load than there is room for until a new replica answers, at most."""
        rules = self.setting.rules
        look = 0.0 if rules.at_once else rules.every_s + rules.see_s + rules.mean_s
        return look + self.setting.start_s

    def room(self, rate: float) -> float:
        """Return the requests a second for which there is room where this rate has been for a while."""
        setting = self.setting
        replicas = max(math.ceil(rate / self.target_rate), setting.least, 1)
        return min(replicas, setting.most) * setting.replica.peak

    @property
    def target_rate(self) -> float:
        """Requests a second of one replica that is as full as the autoscaler aims at."""
        return self.setting.rules.rate(self.setting.replica)


def machines(name: str, on: str, replica: Replica, start: Start, wish: Wish) -> Product:
    """Return Vertex AI or GKE, a replica on each machine."""
    tolerance = HPA_TOLERANCE if name == GKE else 0.0
    rules = replace(MACHINE_RULES, target=wish.target, tolerance=tolerance)
    setting = Setting(
        replica, rules, start.seconds, wish.least, late_ms=wish.late_ms, cold=wish.cold
    )
    return Product(name, on, setting)


def instances(name: str, instance: Instance, replica: Replica, start: Start, wish: Wish) -> Product:
    """Return Cloud Run or Cloud Functions, which go down to none."""
    rules = replace(RUN_RULES, requests=RUN_FULL * instance.concurrency)
    patience_s = max(RUN_PATIENCE_S, RUN_PATIENCE_STARTS * start.seconds)
    setting = Setting(
        replica, rules, start.seconds, 0, wish.most_instances, patience_s, wish.late_ms, wish.cold
    )
    on = f"{instance.vcpus} vCPU, {instance.gib:g} GiB, {instance.concurrency} at once"
    return Product(name, on, setting, instance)
