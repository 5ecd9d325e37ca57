"""What one replica does with the requests that it is given, by what was measured of it."""

from bisect import bisect_left
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import NamedTuple


class Point(NamedTuple):
    """What was answered while so many requests were always in flight."""

    in_flight: float
    per_second: float
    p99_ms: float


@dataclass(frozen=True)
class Replica:
    """A container that answers the faster the more it has at once, since it makes batches, up to a peak.

    A number of requests in flight and a rate belong together as in the measurement; by Little's law
    their quotient is the mean time of a request.
    """

    points: tuple[Point, ...]
    """With more in flight each answers more than the one before."""
    limit: int
    """Requests that are let in at once; one more is refused, or waits outside."""
    busy_points: tuple[tuple[float, float], ...] = ((0.0, 0.0), (1.0, 1.0))
    """Share of the peak → share of the processor that it takes."""

    @cached_property
    def peak(self) -> float:
        """The most requests a second."""
        return _along(self._in_flight, self._rates, self.limit)

    @cached_property
    def full(self) -> float:
        """In flight at the peak: what comes on top of it waits."""
        return min(self.limit, self.points[-1].in_flight)

    def in_flight(self, rate: float) -> float:
        """Return how many are in flight at a rate up to the peak."""
        return _along(self._rates, self._in_flight, min(rate, self.peak))

    def p99_ms(self, present: float) -> float:
        """Return the p99 with so many present, those that wait among them."""
        last = self.points[-1]
        if present <= last.in_flight:
            return _along(self._in_flight, (self.points[0].p99_ms, *self._p99), present)
        return last.p99_ms * present / last.in_flight

    def busy(self, rate: float) -> float:
        """Return the share of the processor that a rate takes, 0 to 1."""
        shares, busy = zip(*self.busy_points, strict=True)
        return _along(shares, busy, rate / self.peak)

    @cached_property
    def _in_flight(self) -> tuple[float, ...]:
        return (0.0, *(each.in_flight for each in self.points))

    @cached_property
    def _rates(self) -> tuple[float, ...]:
        return (0.0, *(each.per_second for each in self.points))

    @cached_property
    def _p99(self) -> tuple[float, ...]:
        return tuple(each.p99_ms for each in self.points)


def _along(xs: Sequence[float], ys: Sequence[float], x: float) -> float:
    """Return y at x on the line through the points; beyond its ends, the end's."""
    right = bisect_left(xs, x)
    if right == 0:
        return ys[0]
    if right == len(xs):
        return ys[-1]
    part = (x - xs[right - 1]) / (xs[right] - xs[right - 1])
    return ys[right - 1] + part * (ys[right] - ys[right - 1])
