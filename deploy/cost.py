"""The hourly cost of deployed machines, in USD, from a dated price list (`prices.toml`)."""

import math
import tomllib
from collections.abc import Iterable
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import TypedDict, cast

from deploy.machines import load_table
from deploy.plan import Machine

PRICES = Path(__file__).with_name("prices.toml")
HOURS_PER_MONTH = 730
BUILD_USD_PER_MINUTE = 0.016
"""Of the machine in cloudbuild.yaml, E2_HIGHCPU_8; https://cloud.google.com/build/pricing."""


class PriceList(TypedDict):
    """The contents of prices.toml."""

    date: str
    source: str
    machines: dict[str, float]
    """Machine type → USD an hour; the price of a machine with accelerators of its own includes them."""
    accelerators: dict[str, float]
    """Accelerator of an n1 machine → USD an hour."""


@dataclass(frozen=True)
class Cost:
    """An estimate; as text it names the date and the source of the prices."""

    usd_per_hour: float
    """USD"""
    unknown: tuple[str, ...] = ()
    """Machine types and accelerators that are not in the price list."""

    @property
    def per_hour(self) -> str:
        """The cost in short."""
        return self._add_unknown(f"${self.usd_per_hour:.2f} an hour")

    def __str__(self) -> str:
        month = f"${self.usd_per_hour * HOURS_PER_MONTH:,.0f} a month"
        known = self._add_unknown(f"about ${self.usd_per_hour:.2f} an hour ({month})")
        return f"{known}, prices of {load_prices()['date']} from {load_prices()['source']}"

    def _add_unknown(self, known: str) -> str:
        """Add what has no price to the known cost; if nothing has one, there is no known cost."""
        if not self.unknown:
            return known
        unlisted = f"the price of {', '.join(self.unknown)}, which is not listed"
        return f"{known} plus {unlisted}" if self.usd_per_hour else unlisted


@cache
def load_prices() -> PriceList:
    """Return the price list."""
    return cast("PriceList", tomllib.loads(PRICES.read_text()))


def estimate_cost(running: Iterable[tuple[Machine, int]]) -> Cost:
    """Return the cost of machines and their minimum numbers of replicas.

    A minimum of 0 counts as one replica: the cost while there are requests. Replicas with a part of a machine's
    accelerators share machines. Spot VMs cost less than the estimate.
    """
    table, total, unknown = load_table(), 0.0, []
    for machine, minimum in running:
        share = machine.accelerator_count, machine.gpu_partition_size
        count = math.ceil((minimum or 1) / table.replicas_per_machine(machine.type, *share))
        hour = load_prices()["machines"].get(machine.type)
        if hour is None:
            unknown.append(machine.type)
        total += count * (hour or 0.0)
        accelerator = machine.accelerator_type
        if machine.accelerator_count and machine.type not in table.accelerated:
            price = load_prices()["accelerators"].get(accelerator)
            if price is None:
                unknown.append(accelerator)
            total += count * machine.accelerator_count * (price or 0.0)
    return Cost(total, tuple(dict.fromkeys(unknown)))
