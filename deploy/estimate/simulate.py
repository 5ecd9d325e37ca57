"""A traffic before an autoscaler: how many replicas there are when, and what becomes of the requests."""

import math
from collections import deque
from dataclasses import dataclass, field, replace
from typing import NamedTuple

from deploy.estimate.curve import Curve
from deploy.estimate.replica import Replica
from deploy.estimate.scaler import Rules, Scaler, Seen
from deploy.estimate.waiting import Step, Waiting

FINE_S, COARSE_S = 1.0, 15.0
"""A step of time: while something changes, and while nothing does."""
ROUND_S = 0.1
"""What an instance that is billed by requests is rounded up to."""


@dataclass(frozen=True)
class Setting:
    """Who scales what, and within which bounds."""

    replica: Replica
    rules: Rules
    start_s: float
    """From the decision until a replica answers."""
    least: int
    most: int = 1000
    patience_s: float = 0.0
    """How long a request waits before the replicas for one that has room; 0: it is refused."""
    late_ms: float = 250.0
    cold: bool = False
    """Whether it begins with `least`, as a version that all traffic is moved to."""


class Moment(NamedTuple):
    """A step, for the plot."""

    at_s: float
    came: float
    """Requests a second."""
    replicas: int
    refused: float
    """Requests a second."""
    p99_ms: float


@dataclass
class Outcome:
    """What came of it."""

    seconds: float
    least: int
    """That were kept warm."""
    came: float = 0.0
    served: float = 0.0
    refused: float = 0.0
    late: float = 0.0
    replica_s: float = 0.0
    """Replicas times seconds, from the decision on."""
    busy_s: float = 0.0
    """Of them, those with a request in them, or starting."""
    present_s: float = 0.0
    """Requests in replicas, times seconds."""
    most: int = 0
    moments: list[Moment] = field(default_factory=list)

    def add(self, step: Step, ready: int, paid: int) -> None:
        """Count a step in which `ready` replicas answered and `paid` were there or started."""
        self.came += step.came
        self.served += step.served
        self.refused += step.refused
        self.late += step.late
        self.replica_s += paid * step.seconds
        self.present_s += step.present * step.seconds
        self.most = max(self.most, paid)
        if ready:
            # Requests that come at random find a replica empty as often as Poisson's distribution says.
            rounded = step.served / step.seconds / ready * ROUND_S
            filled = -math.expm1(-max(step.present / ready, rounded))
            self.busy_s += ready * step.seconds * filled
        self.busy_s += (paid - ready) * step.seconds

    @property
    def lost(self) -> float:
        """The share that was refused."""
        return self.refused / self.came if self.came else 0.0

    @property
    def slow(self) -> float:
        """The share that was served too late."""
        return self.late / self.came if self.came else 0.0


def simulate(curve: Curve, setting: Setting, record: bool = False) -> Outcome:
    """Go through a curve once; `record` keeps every step for a plot.

    Where it is not cold it begins with as many replicas as the first rate asks for.
    """
    waiting = Waiting(setting.replica, setting.patience_s, setting.late_ms)
    scaler = Scaler(setting.rules, setting.least, setting.most, setting.replica.limit)
    ready, starting = _at_first(curve, setting), deque[float]()
    outcome, now, before, calm = Outcome(curve.seconds, setting.least), 0.0, curve.rates[0], True
    for index, rate in enumerate(curve.rates):
        ends = (index + 1) * curve.step_s
        while now < ends:
            while starting and starting[0] <= now:
                starting.popleft()
                ready += 1
            calm = calm and rate == before and not starting
            seconds, before = min(COARSE_S if calm else FINE_S, ends - now), rate
            step = waiting.step(now, seconds, rate * seconds, ready)
            paid = ready + len(starting)
            outcome.add(step, ready, paid)
            if record:
                outcome.moments.append(Moment(now, rate, paid, step.refused / seconds, step.p99_ms))
            now = ends if seconds == ends - now else now + seconds
            calm = not step.outside and not step.refused
            scaler.see(Seen(now, seconds, step.busy * ready, step.present))
            wanted = scaler.want(now, ready, paid, step.outside)
            ready = _change(wanted, ready, starting, now + setting.start_s)
    return outcome


def fewest(curve: Curve, setting: Setting, share: float) -> Outcome | None:
    """Return what comes of the fewest kept warm with which at most this share is refused or late.

    None: no number does, as where a single request takes too long.
    """
    found: dict[int, Outcome] = {}

    def good(least: int) -> bool:
        found[least] = simulate(curve, replace(setting, least=least))
        return found[least].lost + found[least].slow <= share

    low, high = setting.least, max(setting.least, 1)
    while not good(high):
        if high >= setting.most:
            return None
        low, high = high + 1, min(high * 2, setting.most)
    while low < high:
        middle = (low + high) // 2
        low, high = (low, middle) if good(middle) else (middle + 1, high)
    return found[high]


def _at_first(curve: Curve, setting: Setting) -> int:
    if setting.cold:
        return setting.least
    needed = math.ceil(curve.rates[0] / setting.rules.rate(setting.replica))
    return min(max(needed, setting.least), setting.most)


def _change(wanted: int, ready: int, starting: deque[float], there_s: float) -> int:
    """Start or end replicas, those first that do not answer yet; return how many answer."""
    while ready + len(starting) < wanted:
        starting.append(there_s)
    while ready + len(starting) > wanted and starting:
        starting.pop()
    return min(ready, wanted)
