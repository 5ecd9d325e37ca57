"""The queue before some replicas, and those whom it refuses."""

from collections import deque
from typing import NamedTuple

from deploy.estimate.replica import Replica


class Step(NamedTuple):
    """What became of the requests of one step of time."""

    seconds: float
    came: float
    served: float
    refused: float
    late: float
    """Of those served: in a step whose p99 was beyond the limit, or after a wait outside that was."""
    present: float
    """In the replicas at its end, waiting or not."""
    outside: float
    """Still waiting before the replicas at its end."""
    p99_ms: float
    """Of those that did not wait outside."""
    busy: float
    """Of a replica's processor, 0 to 1."""


class Waiting:
    """A fluid queue: within a step requests come evenly, and all replicas share them evenly.

    What a replica cannot answer within the step stays in it as far as its limit goes. Beyond that
    it is refused at once, as the image does with its 429, or waits outside, first come first
    served, for `patience_s` at most, as it does before Cloud Run.
    """

    def __init__(self, replica: Replica, patience_s: float, late_ms: float) -> None:
        self._replica, self._patience_s, self._late_ms = replica, patience_s, late_ms
        self._inside = 0.0
        self._outside: deque[list[float]] = deque()
        """[when they came, how many], the oldest first"""
        self._known: dict[tuple[float, float, int], Step] = {}
        """What was found out where nobody waited, since most steps are like one before."""

    def step(self, now_s: float, seconds: float, came: float, ready: int) -> Step:
        """Let `came` requests come within `seconds`, with so many replicas ready."""
        empty = self._is_empty()
        if empty and (known := self._known.get((seconds, came, ready))):
            return known
        replica = self._replica
        able = ready * replica.peak * seconds
        served = min(self._inside, able)
        self._inside -= served
        waited, late_outside = self._call_in(now_s, able - served)
        fresh = min(came, able - served - waited)
        served += waited + fresh
        # Those who waited outside also come before the new ones into the room that is left inside.
        room = max(ready * (replica.limit - replica.full) - self._inside, 0.0)
        entered, late_entered = self._call_in(now_s, room)
        stay = min(came - fresh, room - entered)
        self._inside += entered + stay
        left, refused = came - fresh - stay, self._give_up(now_s)
        if left and self._patience_s:
            self._outside.append([now_s, left])
        else:
            refused += left
        rate = served / seconds / ready if ready else 0.0
        each = replica.in_flight(rate) + (self._inside / ready if ready else 0.0)
        p99_ms = replica.p99_ms(each)
        late = served if p99_ms > self._late_ms else late_outside + late_entered
        outside = sum(many for _, many in self._outside)
        step = Step(
            seconds, came, served, refused, late, each * ready, outside, p99_ms, replica.busy(rate)
        )
        if empty and self._is_empty():
            self._known[seconds, came, ready] = step
        return step

    def _is_empty(self) -> bool:
        return not self._inside and not self._outside

    def _call_in(self, now_s: float, able: float) -> tuple[float, float]:
        """Let in those who wait outside; return how many, and how many of them too late."""
        served = late = 0.0
        while self._outside and served < able:
            first = self._outside[0]
            some = min(first[1], able - served)
            served += some
            late += some if (now_s - first[0]) * 1000 > self._late_ms else 0.0
            first[1] -= some
            if not first[1]:
                self._outside.popleft()
        return served, late

    def _give_up(self, now_s: float) -> float:
        """Return how many have waited outside for too long, and forget them."""
        gone = 0.0
        while self._outside and now_s - self._outside[0][0] >= self._patience_s:
            gone += self._outside.popleft()[1]
        return gone
