"""What an outcome costs a month, by deploy/prices.toml."""

import math
from dataclasses import dataclass

from deploy import cost
from deploy.cost import HOURS_A_MONTH
from deploy.estimate.products import GKE, Product
from deploy.estimate.simulate import Outcome
from deploy.plan import Machine

HOUR_S = 3600
MONTH_S = HOURS_A_MONTH * HOUR_S


@dataclass(frozen=True)
class Bill:
    """USD a month, if the curve repeats itself for so long."""

    usd: float
    how: str
    """What it consists of, in words."""
    unknown: tuple[str, ...] = ()
    """What the table has no price for."""


def bill(outcome: Outcome, product: Product, machine: Machine) -> Bill:
    """Return what a product's outcome costs."""
    if product.instance is None:
        return by_hours(hours(outcome), product.name, machine)
    return by_seconds(outcome, product)


def hours(outcome: Outcome) -> float:
    """Return the hours of replicas that are paid in a month."""
    return outcome.replica_s * MONTH_S / outcome.seconds / HOUR_S


def by_hours(machine_hours: float, name: str, machine: Machine) -> Bill:
    """Return the bill for machines; of GKE with its cluster and one forwarding rule."""
    table = "gke" if name == GKE else "vertex"
    each = cost.estimate([(machine, 1)], table)
    usd, how = machine_hours * each.hour, f"{machine_hours:,.0f} h at ${each.hour:.4f}"
    if name == GKE:
        gke = cost.table()["gke"]
        fee = max(gke["cluster_hour"] * HOURS_A_MONTH - gke["credit_month"], 0.0)
        door = gke["forwarding_hour"] * HOURS_A_MONTH
        usd += fee + door
        how += f", the cluster ${fee:.0f} after its credit, a forwarding rule ${door:.0f}"
    return Bill(usd, how, each.unknown)


def by_seconds(outcome: Outcome, product: Product) -> Bill:
    """Return the cheaper of Cloud Run's two ways to bill: by requests, or by instances."""
    assert product.instance is not None
    prices, times = cost.table()["run"], MONTH_S / outcome.seconds
    vcpus, gib = product.instance.vcpus, product.instance.gib
    busy, paid, requests = (
        each * times for each in (outcome.busy_s, outcome.replica_s, outcome.served)
    )
    # Of the warm ones what is not busy; those above do not cost while they have nothing to do.
    idle = max(outcome.least * MONTH_S - busy, 0.0)
    free = {name: prices[name] for name in prices if name.startswith("free_")}
    by_requests = (
        max(busy * vcpus - free["free_vcpu_s"], 0) * prices["vcpu_s"]
        + max(busy * gib - free["free_gib_s"], 0) * prices["gib_s"]
        + idle * (vcpus * prices["idle_vcpu_s"] + gib * prices["idle_gib_s"])
        + max(requests - free["free_requests"], 0) / 1e6 * prices["million_requests"]
    )
    by_instances = (
        max(paid * vcpus - free["free_instance_vcpu_s"], 0) * prices["instance_vcpu_s"]
        + max(paid * gib - free["free_instance_gib_s"], 0) * prices["instance_gib_s"]
    )
    if by_instances < by_requests:
        return Bill(
            by_instances,
            f"billed by instances (--no-cpu-throttling), {paid / HOUR_S:,.0f} h; by requests ${by_requests:,.0f}",
        )
    return Bill(
        by_requests,
        f"billed by requests, {busy / HOUR_S:,.0f} h of {paid / HOUR_S:,.0f} busy and "
        f"{math.ceil(requests / 1e6):,} million requests; by instances ${by_instances:,.0f}",
    )
