"""What to do next, decided from what there is. Pure: nothing here talks to anybody.

A command has a goal ("version 3 serves 10 %"). It is written into the endpoint's labels before
anything is changed and taken out when nothing is left to do, so that whoever comes next, on whichever
machine, knows what was under way. `next_step` is asked again after every step.
"""

from collections.abc import Mapping
from dataclasses import dataclass, field, replace

from deploy.errors import UserError

GOAL, SERVED, BACK = "goal", "served", "rolled-back-to"
"""The endpoint's labels: what is under way, the versions that served everything, newest first, and the
one that a rollback ended at, so that another run of it does not go further back."""
LONGEST_LABEL = 63


@dataclass(frozen=True)
class Machine:
    """What a replica runs on. Changing it needs another deployment."""

    type: str
    accelerator: str = ""
    accelerators: int = 0
    service_account: str = ""


@dataclass(frozen=True)
class Replicas:
    """How many, and what they are scaled by. Changing it does not need another deployment."""

    least: int = 1
    most: int = 1
    cpu_percent: int = 60


@dataclass(frozen=True)
class Deployed:
    """A model version that runs, and costs."""

    id: str
    version: str
    machine: Machine
    replicas: Replicas
    since: str = ""
    model: str = ""


@dataclass(frozen=True)
class State:
    """What an endpoint is at this moment."""

    deployed: tuple[Deployed, ...] = ()
    split: Mapping[str, int] = field(default_factory=dict)
    """Deployed model's ID → percent."""
    labels: Mapping[str, str] = field(default_factory=dict)
    pending: tuple[str, ...] = ()
    """Operations that Google has not ended."""
    default: str = ""
    """The version that has the alias "default"."""
    etag: str = ""
    dedicated: bool = False
    """Whether it has a domain of its own."""

    @property
    def served(self) -> tuple[str, ...]:
        """The versions that served everything, newest first."""
        return tuple(filter(None, self.labels.get(SERVED, "").split("-")))

    @property
    def running(self) -> list[str]:
        """The versions that are deployed."""
        return [each.version for each in self.deployed]

    @property
    def goal(self) -> "Goal | None":
        """What somebody began and did not end."""
        return Goal.read(self.labels.get(GOAL, ""))

    @property
    def head(self) -> str | None:
        """The version that is in charge: the last that served everything, or that serves the most."""
        if self.served and (self.served[0] in self.running or not self.running):
            return self.served[0]
        busiest = max(self.deployed, key=lambda each: self.share(each.id), default=None)
        return busiest.version if busiest and self.share(busiest.id) else None

    def share(self, number: str) -> int:
        """Return a deployed model's percent of the traffic."""
        return self.split.get(number, 0)


@dataclass(frozen=True)
class Goal:
    """What a command wants: `version` serving `percent` of the traffic."""

    verb: str
    """deploy, canary, promote or rollback."""
    version: str
    percent: int = 100

    def write(self) -> str:
        """Return it as a label's value."""
        return f"{self.verb}-{self.version}" + (f"-{self.percent}" if self.verb == "canary" else "")

    @staticmethod
    def read(label: str) -> "Goal | None":
        """Return what a label says; None for what is no goal."""
        words = label.split("-")
        if len(words) == 3 and words[0] == "canary" and words[2].isdigit():
            return Goal("canary", words[1], int(words[2]))
        if len(words) == 2 and words[0] in ("deploy", "promote", "rollback"):
            return Goal(words[0], words[1])
        return None


@dataclass(frozen=True)
class Wait:
    """Let Google end an operation that is under way."""

    operation: str


@dataclass(frozen=True)
class Deploy:
    """Start a version's containers, without traffic."""

    version: str


@dataclass(frozen=True)
class Resize:
    """Change how many replicas a deployed model has."""

    id: str
    replicas: Replicas


@dataclass(frozen=True)
class Update:
    """Change the endpoint's labels and, with `split`, its traffic, in one request."""

    labels: Mapping[str, str]
    split: Mapping[str, int] | None = None


@dataclass(frozen=True)
class Undeploy:
    """End a deployed model's containers."""

    id: str


@dataclass(frozen=True)
class MakeDefault:
    """Give a version the alias "default"."""

    version: str


Step = Wait | Deploy | Resize | Update | Undeploy | MakeDefault


def canary(state: State, version: str, percent: int) -> Goal:
    """Return canary's goal; raise Stop where there is nothing to compare a version with."""
    if state.head is None:
        raise UserError(
            "nothing serves yet, so there is nothing to compare a canary with",
            "use: python -m deploy deploy",
        )
    if version == state.head:
        raise UserError(
            f"version {version} already serves; a canary is another version beside it",
            "build and upload a new one first",
        )
    return Goal("canary", version, percent)


def promote(state: State) -> Goal | None:
    """Return promote's goal; None where there is nothing to promote. Raise Stop where nothing runs."""
    if not state.deployed:
        raise UserError("nothing is deployed", "deploy a version first: python -m deploy deploy")
    goal = state.goal
    if goal and goal.verb in ("promote", "canary"):
        if goal.verb == "canary" and goal.version not in state.running:
            missing = f"the canary of version {goal.version} is not up"
            raise UserError(missing, "run canary again, or rollback")
        return Goal("promote", goal.version)
    others = [
        each for each in state.deployed if each.version != state.head and state.share(each.id)
    ]
    newest = max(others, key=lambda each: each.since, default=None)
    return Goal("promote", newest.version) if newest else None


def rollback(state: State) -> Goal:
    """Return rollback's goal: the version before, or the one that was gone back to; raise Stop where there is none."""
    under_way, head = state.goal, state.head
    if under_way and under_way.verb == "rollback":
        return under_way
    before = [version for version in state.served if version != head]
    began = under_way is not None and under_way.version != head
    trying = any(each.version != head and state.share(each.id) for each in state.deployed)
    done = head is not None and state.labels.get(BACK) == head
    target = head if began or trying or done else (before[0] if before else None)
    if target is None:
        raise UserError(
            f"there is no version before {head}" if head else "no version has served yet",
            "`python -m deploy undeploy` ends what runs; `python -m deploy status` shows it",
        )
    return Goal("rollback", target)


def history(state: State, goal: Goal) -> tuple[str, ...]:
    """Return who will have served everything, newest first, once a goal is reached."""
    known = state.served or ((state.head,) if state.head else ())
    if goal.verb == "canary":
        return known
    if goal.verb == "rollback":
        return known[known.index(goal.version) :] if goal.version in known else (goal.version,)
    return (goal.version, *(version for version in known if version != goal.version))


def next_step(state: State, goal: Goal, machine: Machine, replicas: Replicas) -> Step | None:  # noqa: PLR0911  a step each
    """Return the next step towards a goal; None once it is reached. Raise Stop where it can't be."""
    if state.pending:
        return Wait(state.pending[0])
    if state.goal != goal and not _reached(state, goal, machine, replicas):
        return Update({**state.labels, GOAL: goal.write()})
    target = _target(state, goal, machine)
    if target is None:
        return Deploy(goal.version)
    if goal.verb in ("deploy", "canary") and target.replicas != replicas:
        return Resize(target.id, replicas)
    split, labels = _split(state, goal, target), _noted(state, goal)
    if dict(state.split) != split or labels != dict(state.labels):
        return Update(labels, split)
    for each in state.deployed:
        if each.id not in _kept(state, goal, target):
            return Undeploy(each.id)
    if goal.verb != "canary" and state.default != goal.version:
        return MakeDefault(goal.version)
    if GOAL in state.labels:
        return Update({key: value for key, value in state.labels.items() if key != GOAL})
    return None


def apply(state: State, step: Step, machine: Machine, replicas: Replicas) -> State:
    """Return the state after a step, as --dry-run and the tests imagine it."""
    match step:
        case Wait(operation):
            left = tuple(each for each in state.pending if each != operation)
            return replace(state, pending=left)
        case Deploy(version):
            number = f"new-{len(state.deployed) + 1}"
            added = Deployed(number, version, machine, replicas, since="~")
            return replace(state, deployed=(*state.deployed, added))
        case Resize(number, wanted):
            sized = (replace(d, replicas=wanted) if d.id == number else d for d in state.deployed)
            return replace(state, deployed=tuple(sized))
        case Update(labels, split):
            changed = state.split if split is None else split
            return replace(state, labels=labels, split=changed)
        case Undeploy(number):
            others = tuple(each for each in state.deployed if each.id != number)
            shares = {key: share for key, share in state.split.items() if key != number}
            return replace(state, deployed=others, split=shares if others else {})
        case MakeDefault(version):
            return replace(state, default=version)


def _reached(state: State, goal: Goal, machine: Machine, replicas: Replicas) -> bool:
    """Say whether a goal needs nothing at all: then nothing is written down either."""
    imagined = replace(state, labels={**state.labels, GOAL: goal.write()})
    step = next_step(imagined, goal, machine, replicas)
    return isinstance(step, Update) and step.split is None and step.labels == state.labels


def _target(state: State, goal: Goal, machine: Machine) -> Deployed | None:
    """Return the deployed model that a goal is about: of several the busiest, then the newest."""
    fits = [
        each
        for each in state.deployed
        if each.version == goal.version
        and (goal.verb in ("rollback", "promote") or each.machine == machine)
    ]
    return max(fits, key=lambda each: (state.share(each.id), each.since), default=None)


def _base(state: State, target: Deployed) -> Deployed:
    """Return the deployed model that keeps the rest of the traffic beside a canary; raise Stop."""
    others = [each for each in state.deployed if each.id != target.id]
    served = [each for each in others if each.version == state.head] or others
    if not served:
        raise UserError(
            "a canary needs a version beside it, and nothing else is deployed",
            "use: python -m deploy deploy",
        )
    return max(served, key=lambda each: (state.share(each.id), each.since))


def _split(state: State, goal: Goal, target: Deployed) -> dict[str, int]:
    """Return the split of a goal, with every deployed model in it that stays for now."""
    shares = dict.fromkeys((each.id for each in state.deployed), 0)
    if goal.verb == "canary":
        shares[_base(state, target).id] = 100 - goal.percent
    shares[target.id] = goal.percent
    # Google leaves out of a split what has no traffic, or keeps it at 0: both mean the same.
    return {number: share for number, share in shares.items() if share or number in state.split}


def _kept(state: State, goal: Goal, target: Deployed) -> set[str]:
    """Return who stays: the goal's version, and the one to go back to within seconds."""
    kept = {target.id}
    if goal.verb == "canary":
        kept.add(_base(state, target).id)
    elif goal.verb in ("deploy", "promote"):
        before = [version for version in history(state, goal) if version != goal.version][:1]
        idle = [each for each in state.deployed if each.version in before]
        kept |= {max(idle, key=lambda each: each.since).id} if idle else set()
    return kept


def _noted(state: State, goal: Goal) -> dict[str, str]:
    """Return the labels of an endpoint whose traffic is as a goal wants it."""
    labels = {key: value for key, value in state.labels.items() if key != BACK}
    if served := history(state, goal):
        while len("-".join(served)) > LONGEST_LABEL:
            served = served[:-1]  # the oldest
        labels[SERVED] = "-".join(served)
    if goal.verb == "rollback":
        labels[BACK] = goal.version
    return labels
