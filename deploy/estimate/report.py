"""What came of it, for people."""

from collections.abc import Iterator
from dataclasses import dataclass

from deploy import cost
from deploy.estimate.bill import MONTH_S, Bill
from deploy.estimate.curve import Curve
from deploy.estimate.measured import Measured
from deploy.estimate.products import VERTEX, Product
from deploy.estimate.simulate import Outcome

BARS = "▁▂▃▄▅▆▇█"
WIDE = 48
"""Bars of a curve."""


@dataclass(frozen=True)
class Row:
    """One product, with one number of replicas kept warm."""

    product: Product
    outcome: Outcome
    hours: float
    """Of replicas, paid in a month."""
    bill: Bill


@dataclass(frozen=True)
class Choice:
    """One product, as it is set and as it would have to be."""

    asked: Row
    enough: Row | None
    """With the fewest warm that keep what is refused or late within the goal; None: no number does."""


def lines(curve: Curve, measured: Measured, choices: list[Choice], goal: float) -> Iterator[str]:
    """Yield the report."""
    month = curve.mean * MONTH_S / 1e6
    yield f"arrivals   {sparkline(curve)}"
    yield f"           {curve.source}"
    yield (
        f"           {_time(curve.seconds)}, {_number(curve.mean)}/s on average, {_number(curve.peak)}/s at most; "
        f"{month:,.0f} million a month if it repeats itself"
    )
    yield f"measured   {measured.source}"
    yield f"           the processor's use: {measured.busy_source}"
    for choice in choices:
        yield f"           {_replica(choice.asked.product)}"
    late = choices[0].asked.product.setting.late_ms
    yield ""
    yield f"{'':28}{'warm':>6}{'most':>6}{'hours':>9}{'refused':>10}{f'> {late:g} ms':>10}{'USD a month':>13}"
    for choice in choices:
        yield _line(choice.asked.product.name, choice.asked)
        if choice.enough and choice.enough.outcome.least != choice.asked.outcome.least:
            yield _line(f"  for {(1 - goal) * 100:.6g} % in time", choice.enough)
    yield ""
    for choice in choices:
        yield from _advice(choice, curve, goal)
    yield ""
    for choice in choices:
        row = choice.enough or choice.asked
        extra = f"; no price is known of {', '.join(row.bill.unknown)}" if row.bill.unknown else ""
        yield f"{row.product.name} with {row.outcome.least} warm: {row.bill.how}{extra}"
    table = cost.table()
    yield (
        f"Prices of {table['region']}, {cost.TABLE.name} of {table['date']}, without traffic, disks, logs and "
        f"discounts. For orientation: {table['vertex']['source']}"
    )


def sparkline(curve: Curve) -> str:
    """Draw a curve in a line of text, each bar the most of its part."""
    rates, many = curve.rates, len(curve.rates)
    parts = [
        max(rates[index * many // WIDE : max((index + 1) * many // WIDE, index * many // WIDE + 1)])
        for index in range(WIDE)
    ]
    top = max(parts) or 1.0
    return "".join(BARS[round(part / top * (len(BARS) - 1))] for part in parts)


def _advice(choice: Choice, curve: Curve, goal: float) -> Iterator[str]:
    product, outcome = choice.asked.product, choice.asked.outcome
    yield f"{product.name}: a new one answers after {_time(product.delay_s)}. {_rise(product, curve)}"
    bad, enough = outcome.lost + outcome.slow, choice.enough
    if bad <= goal:
        yield f"  {_settings(product, outcome)} is enough."
    elif enough is None:
        yield f"  No number kept warm brings what is refused or late below {goal:.2%}."
    else:
        more = round(enough.bill.usd - choice.asked.bill.usd)
        price = (
            f"${abs(more):,} a month {'more' if more > 0 else 'less'}" if more else "for the same"
        )
        yield (
            f"  With {outcome.least} warm {bad:.2%} are refused or late. "
            f"Keep {enough.outcome.least} warm: {_settings(product, enough.outcome)}, {price}."
        )


def _rise(product: Product, curve: Curve) -> str:
    """Say what the traffic does within the time that a new replica takes, and whether there is room for it."""
    setting = product.setting
    if setting.cold:
        begins = f"It begins with {setting.least}, which answers {_number(setting.least * setting.replica.peak)}/s"
        return f"{begins}, and {_number(curve.rates[0])}/s come."
    rise = curve.steepest(product.delay_s, product.room)
    if rise.ahead <= rise.now and rise.ahead <= rise.room:
        return f"Until then it has room for {_number(rise.room)}/s."
    said = (
        f"Until then {_number(rise.now)}/s become {_number(rise.ahead)}/s (from {_clock(rise.since_s)}), "
        f"with room for {_number(rise.room)}/s: "
    )
    if rise.ahead <= rise.room:
        return f"{said}in time."
    waits = f"; requests wait for up to {setting.patience_s:.0f} s" if setting.patience_s else ""
    return f"{said}too slow{waits}."


def _settings(product: Product, outcome: Outcome) -> str:
    if product.instance is None:
        low, high = (
            ("min_replicas", "max_replicas")
            if product.name == VERTEX
            else ("minReplicas", "maxReplicas")
        )
        return f"{low} = {outcome.least}, {high} = {outcome.most}"
    return f"--min-instances={outcome.least} --max-instances={outcome.most}"


def _replica(product: Product) -> str:
    replica = product.setting.replica
    return (
        f"{product.name}, {product.on}: {replica.peak:,.0f}/s at most, {product.target_rate:,.0f}/s at the "
        f"autoscaler's target, {replica.limit} at once"
    )


def _line(name: str, row: Row) -> str:
    o = row.outcome
    return f"{name:28}{o.least:>6}{o.most:>6}{row.hours:>9,.0f}{o.lost:>10.2%}{o.slow:>10.2%}{row.bill.usd:>13,.0f}"


def _number(value: float) -> str:
    return f"{value:,.0f}" if value >= 100 else f"{value:.3g}"


def _time(seconds: float) -> str:
    for size, name in ((86400, "days"), (3600, "hours"), (60, "minutes")):
        if seconds >= 2 * size:
            return f"{seconds / size:.3g} {name}"
    return f"{seconds:.3g} s"


def _clock(seconds: float) -> str:
    hours_, rest = divmod(round(seconds), 3600)
    return f"{hours_:02}:{rest // 60:02}:{rest % 60:02}"
