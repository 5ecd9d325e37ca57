"""What runs, in dollars: from a dated table, for orientation."""

import tomllib
from collections.abc import Iterable
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any

from deploy.plan import Machine

TABLE = Path(__file__).with_name("prices.toml")
HOURS_A_MONTH = 730


@dataclass(frozen=True)
class Cost:
    """An estimate."""

    hour: float
    """USD"""
    unknown: tuple[str, ...] = ()
    """What the table has no price for."""

    def __str__(self) -> str:
        known = f"about ${self.hour:.2f} an hour (${self.hour * HOURS_A_MONTH:,.0f} a month)"
        extra = (
            f", and {', '.join(self.unknown)}, whose price is not in the table"
            if self.unknown
            else ""
        )
        return f"{known}{extra}, by {TABLE.name} of {table()['date']}"


@cache
def table() -> dict[str, Any]:
    """Return the prices."""
    return tomllib.loads(TABLE.read_text())


def estimate(running: Iterable[tuple[Machine, int]], product: str = "vertex") -> Cost:
    """Return what (machine, replicas) pairs cost an hour on Vertex AI, or as nodes of `gke`."""
    prices, total, unknown = table()[product], 0.0, []
    for machine, count in running:
        hour = prices["machines"].get(machine.type)
        if hour is None:
            unknown.append(machine.type)
        total += count * (hour or 0.0)
        # g2 and a2 machines have their accelerators in their price.
        if machine.accelerators and machine.type.partition("-")[0] not in table()["included"]:
            each = prices["accelerators"].get(machine.accelerator)
            if each is None:
                unknown.append(machine.accelerator)
            total += count * machine.accelerators * (each or 0.0)
    return Cost(total, tuple(dict.fromkeys(unknown)))
