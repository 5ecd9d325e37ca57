"""How many requests come when: made up, or read from a file."""

import csv
import itertools
import json
import math
import statistics
from collections import deque
from collections.abc import Callable
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, NamedTuple

from deploy.errors import Stop

MINUTE_S, HOUR_S, DAY_S = 60, 3600, 86400
BURST_MINUTES = 10
FEWEST, MOST = 2, 200_000
"""Rows of a file."""
TIMES, COUNTS = ("time", "timestamp"), ("requests", "value", "count")
"""What the columns of a file may be called."""


class Rise(NamedTuple):
    """What comes and what there is room for; requests a second."""

    since_s: float
    now: float
    ahead: float
    """The most within the time that counts."""
    room: float
    """That can be answered before anything changes."""


@dataclass(frozen=True)
class Curve:
    """Requests a second, in equal steps."""

    step_s: float
    rates: tuple[float, ...]
    source: str
    """In words, and whether it is a recording."""

    @property
    def seconds(self) -> float:
        """How long it goes on."""
        return self.step_s * len(self.rates)

    @property
    def mean(self) -> float:
        """Requests a second."""
        return statistics.fmean(self.rates)

    @property
    def peak(self) -> float:
        """Requests a second, in the step that has most."""
        return max(self.rates)

    def steepest(self, within_s: float, room: Callable[[float], float]) -> "Rise":
        """Return the rise within a time that comes nearest to the room there is at its begin, or beyond it."""
        reach = max(math.ceil(within_s / self.step_s), 1)
        ahead = _ahead(self.rates, reach)
        room_for = {rate: room(rate) for rate in set(self.rates)}
        # Of equal ones the last: it begins when the others are already under way.
        at = max(
            range(len(ahead)), key=lambda index: (ahead[index] / room_for[self.rates[index]], index)
        )
        return Rise(at * self.step_s, self.rates[at], ahead[at], room_for[self.rates[at]])

    def times(self, factor: float) -> "Curve":
        """Return it with so many times the requests."""
        rates = tuple(rate * factor for rate in self.rates)
        return Curve(self.step_s, rates, f"{self.source}, times {factor:g}")


def steady(peak: float) -> Curve:
    """Make up an hour with `peak` requests in every second."""
    return Curve(HOUR_S / 2, (peak, peak), f"generated: {_said(peak)}, always")


def wave(peak: float, low: float) -> Curve:
    """Make up a day: `low` requests a second at midnight, `peak` at noon, a cosine between."""
    middle, half, step = (peak + low) / 2, (peak - low) / 2, 5 * MINUTE_S
    rates = tuple(
        middle - half * math.cos(2 * math.pi * at / DAY_S) for at in range(0, DAY_S, step)
    )
    return Curve(step, rates, f"generated: a daily wave from {_said(low)} to {_said(peak)}")


def burst(peak: float, low: float) -> Curve:
    """Make up a day of `low` requests a second, but from noon on `peak` for ten minutes, all at once."""
    minutes = range(DAY_S // MINUTE_S)
    noon = len(minutes) // 2
    rates = tuple(peak if noon <= minute < noon + BURST_MINUTES else low for minute in minutes)
    said = f"generated: {_said(low)}, once a day {_said(peak)} for ten minutes"
    return Curve(MINUTE_S, rates, said)


def read(file: Path) -> Curve:
    """Read a recording: a CSV file of time and requests, or what Cloud Monitoring's timeSeries answers.

    Times are seconds or ISO 8601, in UTC where they name no zone; a row counts the requests from its
    time to the next row's. Lines that begin with # are comments.

    Raises:
        Stop: it is no such file; says in which line, and what was expected.

    """
    try:
        text = file.read_text(encoding="utf-8-sig")
    except (OSError, UnicodeDecodeError) as error:
        raise Stop(
            f"{file} cannot be read: {error}", "name a CSV file, or leave --curve out"
        ) from None
    rows = _monitoring(file, text) if text.lstrip().startswith(("{", "[")) else _csv(file, text)
    if not FEWEST <= len(rows) <= MOST:
        raise Stop(
            f"{file} has {len(rows)} rows; {FEWEST} to {MOST:,} can be simulated",
            "group it by longer steps, or cut it",
        )
    steps = [later - now for (now, _), (later, _) in itertools.pairwise(rows)]
    if min(steps) <= 0:
        late = steps.index(min(steps)) + 1
        raise Stop(
            f"{file}: the time of row {late + 1} is not after that of the row before",
            "sort it by time, one row for each time",
        )
    return _even(rows, steps, file)


def write(curve: Curve, file: Path) -> None:
    """Write a curve as `read` reads it."""
    lines = [f"# {curve.source}", "time,requests"]
    lines += [
        f"{index * curve.step_s:.10g},{rate * curve.step_s:.10g}"
        for index, rate in enumerate(curve.rates)
    ]
    file.parent.mkdir(parents=True, exist_ok=True)
    file.write_text("\n".join(lines) + "\n")


def _even(rows: list[tuple[float, float]], steps: list[float], file: Path) -> Curve:
    """Make equal steps of rows: one where a row is missing, nothing came, as in a count that was grouped."""
    step, begin = min(steps), rows[0][0]
    many = round((rows[-1][0] - begin) / step) + 1
    if many > MOST:
        raise Stop(
            f"{file}: its smallest step, {step:g} s, is too small for the {rows[-1][0] - begin:,.0f} s it covers",
            "group it by longer steps, or cut it",
        )
    rates = [0.0] * many
    for at, count in rows:
        rates[round((at - begin) / step)] += count / step
    return Curve(step, tuple(rates), f"{file}, {many} steps of {step:g} s")


def _csv(file: Path, text: str) -> list[tuple[float, float]]:
    lines = [
        (number, line)
        for number, line in enumerate(text.splitlines(), 1)
        if line.strip() and not line.startswith("#")
    ]
    table = list(csv.reader(line for _, line in lines))
    if not table:
        raise Stop(f"{file} is empty", "its first line is: time,requests")
    head = [name.strip().lower() for name in table[0]]
    when = next((head.index(name) for name in TIMES if name in head), None)
    what = next((head.index(name) for name in COUNTS if name in head), None)
    if when is None or what is None:
        raise Stop(
            f"{file}, line {lines[0][0]}: the columns are {', '.join(head)}",
            f"one must be {' or '.join(TIMES)}, one {' or '.join(COUNTS)}",
        )
    rows = []
    for (number, line), row in zip(lines[1:], table[1:], strict=True):
        try:
            rows.append((_time(row[when]), _count(row[what])))
        except (ValueError, IndexError):
            raise Stop(
                f"{file}, line {number}: {line!r}",
                "expected a time in seconds or as 2026-11-24T12:00:00Z, and a number of requests",
            ) from None
    return rows


def _monitoring(file: Path, text: str) -> list[tuple[float, float]]:
    """Read Cloud Monitoring's answer: points of all series, added up by their time."""
    try:
        said: Any = json.loads(text)
        series = said if isinstance(said, list) else said.get("timeSeries", [])
        found: dict[float, float] = {}
        for point in (point for each in series for point in each["points"]):
            at = _time(point["interval"]["endTime"])
            found[at] = found.get(at, 0.0) + _count(next(iter(point["value"].values())))
    except (ValueError, KeyError, TypeError, AttributeError, StopIteration) as error:
        raise Stop(
            f"{file} is no answer of Cloud Monitoring's timeSeries: {error!r}",
            "docs/scale.md has the command that writes one",
        ) from None
    return sorted(found.items())


def _time(text: str) -> float:
    """Return seconds; raise ValueError."""
    text = text.strip()
    try:
        return float(text)
    except ValueError:
        found = datetime.fromisoformat(text.removesuffix(" UTC"))
        return (found if found.tzinfo else found.replace(tzinfo=UTC)).timestamp()


def _count(text: Any) -> float:
    """Return how many; raise ValueError."""
    count = float(text)
    if not 0 <= count < math.inf:
        raise ValueError(text)
    return count


def _said(rate: float) -> str:
    return f"{rate:,.10g}/s"


def _ahead(values: tuple[float, ...], reach: int) -> list[float]:
    """Return, for each value, the greatest of it and the `reach` after it."""
    found = [0.0] * len(values)
    falling: deque[int] = deque()
    """Indices within reach whose values are greater than all before them; the first has the greatest."""
    for index in range(len(values) - 1, -1, -1):
        while falling and values[falling[-1]] <= values[index]:
            falling.pop()
        falling.append(index)
        while falling[0] > index + reach:
            falling.popleft()
        found[index] = values[falling[0]]
    return found
