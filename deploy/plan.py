"""Decides the next step of a rollout from the endpoint's state. Pure: no module here calls Google.

A command has a goal, such as "version 3 serves 10 %". The goal is written into the endpoint's labels
before anything is changed, and removed when no step is left, so that the next command, on whichever
machine, can continue or undo it. `next_step` is called again after every step.
"""

from collections.abc import Mapping
from dataclasses import dataclass, field, replace

from deploy.errors import UserError

GOAL, HISTORY, ROLLED_BACK_TO = "goal", "served", "rolled-back-to"
"""The endpoint's labels: the unfinished goal; the versions that have served all traffic, newest first;
and the version that a rollback ended at, so that a second rollback goes no further back."""
MAX_LABEL_LENGTH = 63
DEPLOYMENT_TIME = "5 to 20 minutes"
"""How long Google usually takes."""


@dataclass(frozen=True)
class Machine:
    """What a replica runs on. A change needs another deployment."""

    type: str
    accelerator_type: str = ""
    accelerator_count: int = 0
    service_account: str = ""
    spot: bool = False
    reservation: str = ""
    """Resource name, or any."""
    access_logging: bool = False
    idle_minutes: int = 0
    """Time without requests after which no replica is left; 0: at least one always runs."""
    min_up_minutes: int = 0
    """Minimum time until then; 0: at least one always runs."""
    gpu_partition_size: str = ""
    """Part of the accelerator; empty: all of it."""


@dataclass(frozen=True)
class Replicas:
    """The number of replicas and their scaling targets. A change needs no other deployment."""

    minimum: int = 1
    maximum: int = 1
    cpu_percent: int = 60
    gpu_percent: int = 0
    """0: no accelerator"""
    requests_per_minute: int = 0
    """Of a replica; 0: no target."""
    container_logging: bool = True


@dataclass(frozen=True)
class DeployedModel:
    """A deployed version, which costs money."""

    id: str
    version: str
    machine: Machine
    replicas: Replicas
    since: str = ""
    """ISO 8601"""
    model_name: str = ""


@dataclass(frozen=True)
class EndpointState:
    """The state of an endpoint."""

    deployed: tuple[DeployedModel, ...] = ()
    split: Mapping[str, int] = field(default_factory=dict)
    """Deployed model's ID → percent."""
    labels: Mapping[str, str] = field(default_factory=dict)
    pending: tuple[str, ...] = ()
    """Operations that have not ended."""
    default: str = ""
    """The version that has the alias "default"."""
    etag: str = ""

    @property
    def history(self) -> tuple[str, ...]:
        """The versions that have served all traffic, newest first."""
        return tuple(filter(None, self.labels.get(HISTORY, "").split("-")))

    @property
    def versions(self) -> list[str]:
        """The versions that are deployed."""
        return [model.version for model in self.deployed]

    @property
    def goal(self) -> "Goal | None":
        """The goal that a command has not finished."""
        return Goal.parse(self.labels.get(GOAL, ""))

    @property
    def primary(self) -> str | None:
        """The version that served all traffic last, or else the one with the most traffic."""
        if self.history and (self.history[0] in self.versions or not self.versions):
            return self.history[0]
        busiest = max(self.deployed, key=lambda model: self.share(model.id), default=None)
        return busiest.version if busiest and self.share(busiest.id) else None

    def share(self, deployed_id: str) -> int:
        """Return a deployed model's percentage of the traffic."""
        return self.split.get(deployed_id, 0)


@dataclass(frozen=True)
class Goal:
    """The goal of a command: `version` serves `percent` of the traffic."""

    verb: str
    """One of deploy, canary, promote and rollback."""
    version: str
    percent: int = 100

    def to_label(self) -> str:
        """Return the goal as a label's value."""
        return f"{self.verb}-{self.version}" + (f"-{self.percent}" if self.verb == "canary" else "")

    @staticmethod
    def parse(label: str) -> "Goal | None":
        """Return the goal in a label's value; None if there is none."""
        words = label.split("-")
        if len(words) == 3 and words[0] == "canary" and words[2].isdigit():
            return Goal("canary", words[1], int(words[2]))
        if len(words) == 2 and words[0] in ("deploy", "promote", "rollback"):
            return Goal(words[0], words[1])
        return None


@dataclass(frozen=True)
class Wait:
    """Wait for the end of a pending operation."""

    operation: str


@dataclass(frozen=True)
class Deploy:
    """Deploy a version without traffic."""

    version: str


@dataclass(frozen=True)
class SetReplicas:
    """Change a deployed model's replicas."""

    id: str
    replicas: Replicas


@dataclass(frozen=True)
class SetLabels:
    """Set the endpoint's labels."""

    labels: Mapping[str, str]


@dataclass(frozen=True)
class SetTraffic:
    """Set the endpoint's traffic split and its labels in one request."""

    split: Mapping[str, int]
    labels: Mapping[str, str]


@dataclass(frozen=True)
class Undeploy:
    """Undeploy a deployed model."""

    id: str


@dataclass(frozen=True)
class SetDefault:
    """Give a version the alias "default"."""

    version: str


Step = Wait | Deploy | SetReplicas | SetLabels | SetTraffic | Undeploy | SetDefault


def check_has_primary(state: EndpointState) -> None:
    """Raise UserError if no version serves traffic that a canary could take a share of."""
    if state.primary is None:
        raise UserError(
            "no version serves traffic yet: a canary takes its share from the version that serves",
            "make deploy-endpoint",
        )


def canary(state: EndpointState, version: str, percent: int) -> Goal:
    """Return the goal of `canary`; raise UserError if no other version serves."""
    check_has_primary(state)
    if version == state.primary:
        reason = f"version {version} already serves: a canary has to be another version"
        raise UserError(reason, "build and upload a new version first")
    return Goal("canary", version, percent)


def promote(state: EndpointState) -> Goal | None:
    """Return the goal of `promote`; None without a canary. Raise UserError if nothing is deployed."""
    if not state.deployed:
        raise UserError("no version is deployed", "make deploy-endpoint")
    goal = state.goal
    if goal and goal.verb in ("promote", "canary"):
        if goal.verb == "canary" and not _has_traffic(state, goal.version):
            missing = (
                f"the canary of version {goal.version} was interrupted before it got any request"
            )
            raise UserError(missing, "run canary again, or rollback")
        return Goal("promote", goal.version)
    shared = [model for model in state.deployed if state.share(model.id)]
    others = [model for model in shared if model.version != state.primary]
    newest = max(others, key=lambda model: model.since, default=None)
    return Goal("promote", newest.version) if newest else None


def _has_traffic(state: EndpointState, version: str) -> bool:
    return any(state.share(model.id) for model in state.deployed if model.version == version)


def rollback(state: EndpointState) -> Goal:
    """Return the goal of `rollback`: the primary version if another is being rolled out, else the previous one.

    A rollback that is unfinished, or finished and run again, keeps its version.
    Raises UserError if there is no previous version.
    """
    unfinished, primary = state.goal, state.primary
    if unfinished and unfinished.verb == "rollback":
        return unfinished
    previous = [version for version in state.history if version != primary]
    is_started = unfinished is not None and unfinished.version != primary
    is_shared = any(model.version != primary and state.share(model.id) for model in state.deployed)
    is_finished = primary is not None and state.labels.get(ROLLED_BACK_TO) == primary
    target = primary
    if not (is_started or is_shared or is_finished):
        target = previous[0] if previous else None
    if target is None:
        raise UserError(
            f"there is no version before {primary}" if primary else "no version has served yet",
            "make status shows what is deployed, make undeploy ends it",
        )
    return Goal("rollback", target)


def next_step(  # noqa: PLR0911  a return for each step
    state: EndpointState, goal: Goal, machine: Machine, replicas: Replicas
) -> Step | None:
    """Return the next step towards a goal; None once it is reached. Raise UserError if it cannot be."""
    if state.pending:
        return Wait(state.pending[0])
    if state.goal != goal and not _is_reached(state, goal, machine, replicas):
        return SetLabels({**state.labels, GOAL: goal.to_label()})
    target = _target(state, goal, machine)
    if target is None:
        return Deploy(goal.version)
    if goal.verb in ("deploy", "canary") and target.replicas != replicas:
        return SetReplicas(target.id, replicas)
    split, labels = _split(state, goal, target), _labels_for(state, goal)
    if dict(state.split) != split or labels != dict(state.labels):
        return SetTraffic(split, labels)
    for model in state.deployed:
        if model.id not in _to_keep(state, goal, target):
            return Undeploy(model.id)
    if goal.verb != "canary" and state.default != goal.version:
        return SetDefault(goal.version)
    if GOAL in state.labels:
        return SetLabels({key: value for key, value in state.labels.items() if key != GOAL})
    return None


def apply(  # noqa: PLR0911  a return for each step
    state: EndpointState, step: Step, machine: Machine, replicas: Replicas
) -> EndpointState:
    """Return the state after a step, for dry runs and tests."""
    match step:
        case Wait(operation):
            pending = tuple(name for name in state.pending if name != operation)
            return replace(state, pending=pending)
        case Deploy(version):
            new_id = f"new-{len(state.deployed) + 1}"
            added = DeployedModel(new_id, version, machine, replicas, since="~")
            return replace(state, deployed=(*state.deployed, added))
        case SetReplicas(deployed_id, new):
            scaled = (
                replace(model, replicas=new) if model.id == deployed_id else model
                for model in state.deployed
            )
            return replace(state, deployed=tuple(scaled))
        case SetLabels(labels):
            return replace(state, labels=labels)
        case SetTraffic(split, labels):
            return replace(state, labels=labels, split=split)
        case Undeploy(deployed_id):
            others = tuple(model for model in state.deployed if model.id != deployed_id)
            shares = {key: share for key, share in state.split.items() if key != deployed_id}
            return replace(state, deployed=others, split=shares if others else {})
        case SetDefault(version):
            return replace(state, default=version)


def _is_reached(state: EndpointState, goal: Goal, machine: Machine, replicas: Replicas) -> bool:
    """Return whether a goal needs no step: then it is not written into the labels either."""
    labelled = replace(state, labels={**state.labels, GOAL: goal.to_label()})
    step = next_step(labelled, goal, machine, replicas)
    return isinstance(step, SetLabels) and step.labels == state.labels


def _target(state: EndpointState, goal: Goal, machine: Machine) -> DeployedModel | None:
    """Return the deployed model of a goal's version: of several the one with most traffic, then the newest."""
    candidates = [
        model
        for model in state.deployed
        if model.version == goal.version
        and (goal.verb in ("rollback", "promote") or model.machine == machine)
    ]
    return max(candidates, key=lambda model: (state.share(model.id), model.since), default=None)


def _baseline(state: EndpointState, target: DeployedModel) -> DeployedModel:
    """Return the deployed model that keeps the traffic which a canary does not get; raise UserError."""
    others = [model for model in state.deployed if model.id != target.id]
    primary = [model for model in others if model.version == state.primary] or others
    if not primary:
        reason = "no other version is deployed: a canary needs one for the rest of the traffic"
        raise UserError(reason, "make deploy-endpoint")
    return max(primary, key=lambda model: (state.share(model.id), model.since))


def _split(state: EndpointState, goal: Goal, target: DeployedModel) -> dict[str, int]:
    """Return the traffic split of a goal over all models that are deployed now."""
    shares = dict.fromkeys((model.id for model in state.deployed), 0)
    if goal.verb == "canary":
        shares[_baseline(state, target).id] = 100 - goal.percent
    shares[target.id] = goal.percent
    # Google may leave a model without traffic out of the split, or list it with 0: both mean the same.
    return {key: share for key, share in shares.items() if share or key in state.split}


def _to_keep(state: EndpointState, goal: Goal, target: DeployedModel) -> set[str]:
    """Return the IDs that stay deployed: the goal's version, and the one for a fast rollback."""
    kept = {target.id}
    if goal.verb == "canary":
        kept.add(_baseline(state, target).id)
    elif goal.verb in ("deploy", "promote"):
        previous = [version for version in _history_after(state, goal) if version != goal.version]
        idle = [model for model in state.deployed if model.version in previous[:1]]
        kept |= {max(idle, key=lambda model: model.since).id} if idle else set()
    return kept


def _history_after(state: EndpointState, goal: Goal) -> tuple[str, ...]:
    """Return the versions that have served all traffic once a goal is reached, newest first."""
    history = state.history or ((state.primary,) if state.primary else ())
    version = goal.version
    if goal.verb == "canary":
        return history
    if goal.verb == "rollback":
        return history[history.index(version) :] if version in history else (version,)
    return (version, *(older for older in history if older != version))


def _labels_for(state: EndpointState, goal: Goal) -> dict[str, str]:
    """Return the endpoint's labels once its traffic split is that of a goal."""
    labels = {key: value for key, value in state.labels.items() if key != ROLLED_BACK_TO}
    if history := _history_after(state, goal):
        while len("-".join(history)) > MAX_LABEL_LENGTH:
            history = history[:-1]  # the oldest
        labels[HISTORY] = "-".join(history)
    if goal.verb == "rollback":
        labels[ROLLED_BACK_TO] = goal.version
    return labels
