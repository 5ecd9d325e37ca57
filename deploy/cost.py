"""The hourly cost of deployed machines, in USD, from a dated price list (`prices.toml`)."""

import tomllib
from collections.abc import Iterable
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import TypedDict, cast

from deploy.plan import Machine

PRICES = Path(__file__).with_name("prices.toml")
HOURS_PER_MONTH = 730
BUILD_USD_PER_MINUTE = 0.016
"""Of the machine in cloudbuild.yaml, E2_HIGHCPU_8; https://cloud.google.com/build/pricing."""


class PriceList(TypedDict):
    """The contents of prices.toml."""

    date: str
    source: str
    included: list[str]
    """Machine families whose price includes their accelerators."""
    machines: dict[str, float]
    """Machine type → USD an hour."""
    accelerators: dict[str, float]
    """Accelerator type → USD an hour."""


@dataclass(frozen=True)
class Cost:
    """An estimate; as text it names the date and the source of the prices."""

    usd_per_hour: float
    """USD"""
    unknown: tuple[str, ...] = ()
    """Machine types and accelerators that are not in the price list."""

    @property
    def per_hour(self) -> str:
        """The known part, in short."""
        return f"${self.usd_per_hour:.2f} an hour"

    def __str__(self) -> str:
        known = f"about ${self.usd_per_hour:.2f} an hour (${self.usd_per_hour * HOURS_PER_MONTH:,.0f} a month)"
        extra = f" plus {', '.join(self.unknown)} (no price listed)" if self.unknown else ""
        return f"{known}{extra}, prices of {load_prices()['date']} from {load_prices()['source']}"


@cache
def load_prices() -> PriceList:
    """Return the price list."""
    return cast("PriceList", tomllib.loads(PRICES.read_text()))


def estimate_cost(running: Iterable[tuple[Machine, int]]) -> Cost:
    """Return the cost of machines and their minimum numbers of replicas.

    A minimum of 0 counts as one replica: the cost while there are requests. Spot VMs cost less than the estimate.
    """
    total, unknown = 0.0, []
    for machine, minimum in running:
        count = minimum or 1
        hour = load_prices()["machines"].get(machine.type)
        if hour is None:
            unknown.append(machine.type)
        total += count * (hour or 0.0)
        family, accelerator = machine.type.partition("-")[0], machine.accelerator_type
        if machine.accelerator_count and family not in load_prices()["included"]:
            price = load_prices()["accelerators"].get(accelerator)
            if price is None:
                unknown.append(accelerator)
            total += count * machine.accelerator_count * (price or 0.0)
    return Cost(total, tuple(dict.fromkeys(unknown)))
