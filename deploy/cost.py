"""What deployed machines cost an hour, in USD, from a dated price list (`prices.toml`)."""

import tomllib
from collections.abc import Iterable
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any

from deploy.plan import Machine

PRICES = Path(__file__).with_name("prices.toml")
HOURS_A_MONTH = 730


@dataclass(frozen=True)
class Cost:
    """An estimate; as text it names the date and the source of its prices."""

    hour: float
    """USD"""
    unknown: tuple[str, ...] = ()
    """Machine types and accelerators without a price in the list."""

    def __str__(self) -> str:
        known = f"about ${self.hour:.2f} an hour (${self.hour * HOURS_A_MONTH:,.0f} a month)"
        extra = f" plus {', '.join(self.unknown)} (no price listed)" if self.unknown else ""
        return f"{known}{extra}, prices of {prices()['date']} from {prices()['source']}"


@cache
def prices() -> dict[str, Any]:
    """Return the price list: date, source, and prices of machines and accelerators."""
    return tomllib.loads(PRICES.read_text())


def estimate(running: Iterable[tuple[Machine, int]]) -> Cost:
    """Return what (machine, number of replicas) pairs cost an hour."""
    total, unknown = 0.0, []
    for machine, count in running:
        hour = prices()["machines"].get(machine.type)
        if hour is None:
            unknown.append(machine.type)
        total += count * (hour or 0.0)
        # g2 and a2 machines have their accelerators in their price.
        if machine.accelerators and machine.type.partition("-")[0] not in prices()["included"]:
            each = prices()["accelerators"].get(machine.accelerator)
            if each is None:
                unknown.append(machine.accelerator)
            total += count * machine.accelerators * (each or 0.0)
    return Cost(total, tuple(dict.fromkeys(unknown)))
