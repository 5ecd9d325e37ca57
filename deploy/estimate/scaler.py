"""How many replicas an autoscaler wants, from what it sees of those there are."""

import math
from collections import deque
from dataclasses import dataclass
from typing import NamedTuple

from deploy.estimate.replica import Replica

WHOLE = 1e-9
"""What is this little above a whole number is that number."""


@dataclass(frozen=True)
class Rules:
    """An autoscaler, as documented; docs/scale.md has the source of each number."""

    every_s: float
    """Between two looks."""
    target: float
    """The share of the processor that it aims at."""
    see_s: float
    """The age of the youngest figure that it sees."""
    mean_s: float
    """It sees the mean of so long."""
    keep_s: float
    """It goes down to the most that it wanted within this time."""
    tolerance: float = 0.0
    """Off the target by less than this share, nothing changes."""
    requests: float = 0.0
    """Requests at once that it aims at in each, beside the processor; 0: it does not look at them."""
    at_once: bool = False
    """Whether requests for which there is no room start replicas without waiting for the next look."""

    def rate(self, replica: Replica) -> float:
        """Return the requests a second with which a replica is as full as this aims at."""
        low, high = 0.0, replica.peak
        for _ in range(50):
            middle = (low + high) / 2
            crowded = self.requests and replica.in_flight(middle) > self.requests
            over = crowded or replica.busy(middle) > self.target
            low, high = (low, middle) if over else (middle, high)
        return high


class Seen(NamedTuple):
    """What was, for some time until a moment."""

    until_s: float
    seconds: float
    used: float
    """Replicas' worth of processor."""
    present: float
    """Requests in all replicas."""


class Scaler:
    """It looks at the past, every so often, and names a number."""

    def __init__(self, rules: Rules, least: int, most: int, room: int) -> None:
        """Keep within `least` and `most`; a replica has `room` for so many requests at once."""
        self._rules, self._least, self._most, self._room = rules, least, most, room
        self._seen: deque[Seen] = deque()
        self._wanted: deque[tuple[float, int]] = deque()
        """(when, how many), of falling numbers: what a later and greater one outdoes is left out."""
        self._next_s = 0.0

    def see(self, seen: Seen) -> None:
        """Take note of what was."""
        self._seen.append(seen)
        while self._seen[0].until_s <= seen.until_s - self._rules.see_s - self._rules.mean_s:
            self._seen.popleft()

    def want(self, now_s: float, ready: int, paid: int, outside: float) -> int:
        """Return how many there should be.

        `ready` answer now, `paid` are there or start, `outside` requests wait before them.
        """
        if self._rules.at_once and outside:
            more = math.ceil(outside / self._room - WHOLE)
            paid = max(paid, self._bounded(ready + more))
            self._note(now_s, paid)
        if now_s < self._next_s:
            return paid
        self._next_s = now_s + self._rules.every_s
        self._note(now_s, self._bounded(self._look(now_s, ready, paid)))
        while self._wanted[0][0] < now_s - self._rules.keep_s:
            self._wanted.popleft()
        return self._wanted[0][1]

    def _note(self, now_s: float, wanted: int) -> None:
        while self._wanted and self._wanted[-1][1] <= wanted:
            self._wanted.pop()
        self._wanted.append((now_s, wanted))

    def _bounded(self, wanted: int) -> int:
        return min(max(wanted, self._least), self._most)

    def _look(self, now_s: float, ready: int, paid: int) -> int:
        rules = self._rules
        until = now_s - rules.see_s
        known = [each for each in self._seen if until - rules.mean_s < each.until_s <= until]
        seconds = sum(each.seconds for each in known)
        if not seconds:
            return paid
        used = sum(each.used * each.seconds for each in known) / seconds
        off = used / (ready * rules.target) if ready else 0.0
        if abs(off - 1) <= rules.tolerance:
            wanted = paid
        else:
            wanted = math.ceil(used / rules.target - WHOLE)
            # Those that start are not yet used: meanwhile the same load wants no more, and no fewer.
            wanted = max(wanted, paid) if off > 1 else wanted
        if rules.requests:
            present = sum(each.present * each.seconds for each in known) / seconds
            wanted = max(wanted, math.ceil(present / rules.requests - WHOLE))
        return wanted
