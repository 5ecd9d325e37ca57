"""Tests of deploy.plan: every command reaches its goal from every state that an interruption can leave."""

import random
from collections.abc import Iterator
from dataclasses import replace

import pytest

from deploy import plan
from deploy.errors import UserError
from deploy.plan import (
    DeployedModel,
    EndpointState,
    Goal,
    Machine,
    Replicas,
    apply,
    next_step,
)

SMALL, LARGE = Machine("e2-standard-2"), Machine("n1-standard-8")
ONE, TWO = Replicas(1, 2), Replicas(2, 4)


def steps(
    state: EndpointState, goal: Goal, machine: Machine = SMALL, replicas: Replicas = ONE
) -> Iterator[tuple[plan.Step, EndpointState]]:
    """Yield each step with the state after it; fail if the goal is not reached in 30 steps."""
    for _ in range(30):
        step = next_step(state, goal, machine, replicas)
        if step is None:
            return
        state = _with_id(apply(state, step, machine, replicas), machine)
        yield step, state
    raise AssertionError(f"{goal} is not reached from {state}")


def reached(
    state: EndpointState, goal: Goal, machine: Machine = SMALL, replicas: Replicas = ONE
) -> EndpointState:
    for _, changed in steps(state, goal, machine, replicas):
        state = changed
    return state


def _with_id(state: EndpointState, machine: Machine) -> EndpointState:
    """Give a new deployed model an ID and a time, as Vertex AI does."""
    count = len(state.deployed)

    def rename(model: DeployedModel) -> DeployedModel:
        if not model.id.startswith("new"):
            return model
        return replace(model, id=f"{count}-{model.version}-{machine.type}", since=f"2026-{count}")

    return replace(state, deployed=tuple(map(rename, state.deployed)))


def command(state: EndpointState, line: str) -> Goal | None:
    """Return the goal of a command such as "deploy 3" or "canary 3 10"."""
    verb, *arguments = line.split()
    if verb == "deploy":
        return Goal("deploy", arguments[0])
    if verb == "canary":
        return plan.canary(state, arguments[0], int(arguments[1]))
    return plan.promote(state) if verb == "promote" else plan.rollback(state)


def goal_of(state: EndpointState, line: str) -> Goal:
    """Return the goal of a command that has one."""
    goal = command(state, line)
    assert goal is not None
    return goal


def after(lines: str) -> EndpointState:
    """Return an endpoint's state after these commands, separated by commas."""
    state = EndpointState()
    for line in filter(None, lines.split(", ")):
        state = reached(state, goal_of(state, line))
    return state


def traffic(state: EndpointState) -> dict[str, int]:
    return {model.version: state.share(model.id) for model in state.deployed}


@pytest.mark.parametrize(
    ("lines", "expected", "history"),
    [
        ("deploy 1", {"1": 100}, "1"),
        ("deploy 1, deploy 2, deploy 3", {"2": 0, "3": 100}, "321"),
        ("deploy 1, deploy 2, canary 3 10", {"2": 90, "3": 10}, "21"),
        ("deploy 1, canary 2 10, canary 2 50", {"1": 50, "2": 50}, "1"),
        ("deploy 1, canary 2 10, promote", {"1": 0, "2": 100}, "21"),
        ("deploy 1, deploy 2, canary 3 10, rollback", {"2": 100}, "21"),
        ("deploy 1, deploy 2, deploy 3, rollback", {"2": 100}, "21"),
        ("deploy 1, deploy 2, deploy 3, rollback, deploy 4, rollback", {"2": 100}, "21"),
    ],
)
def test_commands_lead_to_the_expected_traffic_and_history(
    lines: str, expected: dict[str, int], history: str
) -> None:
    state = after(lines)
    assert traffic(state) == expected
    assert state.history == tuple(history)
    assert state.default == history[0]


@pytest.mark.parametrize(
    ("before", "line"),
    [
        ("deploy 1, deploy 2", "deploy 2"),
        ("deploy 1, deploy 2, deploy 3, rollback", "rollback"),
        ("deploy 1, deploy 2, canary 3 10, rollback", "rollback"),
    ],
)
def test_repeated_command_changes_nothing(before: str, line: str) -> None:
    assert not list(steps(after(before), goal_of(after(before), line)))


def test_rollback_deploys_the_previous_version_if_it_was_undeployed() -> None:
    state = reached(after("deploy 1, deploy 2"), Goal("rollback", "2"))
    assert traffic(state) == {"2": 100}
    state = EndpointState(state.deployed, state.split, {"served": "2-1"}, (), "2")
    assert traffic(reached(state, plan.rollback(state))) == {"1": 100}


STARTS = {
    "nothing": "",
    "one version": "deploy 1",
    "two versions": "deploy 1, deploy 2",
    "a canary": "deploy 1, deploy 2, canary 3 10",
    "a rollback": "deploy 1, deploy 2, rollback",
}
"""Name of a state → the commands that lead to it."""
LINES = ("deploy 3", "canary 3 10", "promote", "rollback")
INVALID = {
    ("nothing", "canary 3 10"): "no version serves traffic yet",
    ("nothing", "promote"): "no version is deployed",
    ("nothing", "rollback"): "no version has served yet",
    ("one version", "rollback"): "no version before 1",
    ("one version", "canary 1 10"): "already serves",
}
NOTHING_TO_PROMOTE = [
    ("one version", "promote"),
    ("two versions", "promote"),
    ("a rollback", "promote"),
]
CASES = [
    (start, line)
    for start in STARTS
    for line in LINES
    if (start, line) not in [*NOTHING_TO_PROMOTE, *INVALID]
]


def interrupted_states(state: EndpointState, goal: Goal) -> Iterator[EndpointState]:
    """Yield every state that an interruption can leave, with and without a pending operation."""
    for interrupted in (state, *(changed for _, changed in steps(state, goal))):
        yield interrupted
        yield replace(interrupted, pending=("operations/1",))


@pytest.mark.parametrize(("start", "line"), CASES)
def test_command_interrupted_at_any_step_and_run_again_reaches_the_same_state(
    start: str, line: str
) -> None:
    before = after(STARTS[start])
    goal = goal_of(before, line)
    uninterrupted = reached(before, goal)
    assert traffic(uninterrupted)[goal.version] == goal.percent
    for point in interrupted_states(before, goal):
        again = command(point, line)
        # After the last step, promote has no goal.
        end = reached(point, again) if again else replace(point, pending=())
        assert traffic(end) == traffic(uninterrupted)
        assert (dict(end.labels), end.default) == (
            dict(uninterrupted.labels),
            uninterrupted.default,
        )


@pytest.mark.parametrize("line", ["deploy 3", "canary 3 10"])
@pytest.mark.parametrize("start", ["one version", "two versions", "a rollback"])
def test_rollback_undoes_a_command_interrupted_at_any_step(start: str, line: str) -> None:
    before = after(STARTS[start])
    goal = goal_of(before, line)
    states = [state for _, state in steps(before, goal)]
    # After its last step, a deploy is no longer interrupted.
    for point in states[:-1] if goal.verb == "deploy" else states:
        end = reached(point, plan.rollback(point))
        assert traffic(end) == {before.primary: 100}


@pytest.mark.parametrize(("start", "line"), NOTHING_TO_PROMOTE)
def test_promote_without_a_canary_has_no_goal(start: str, line: str) -> None:
    assert command(after(STARTS[start]), line) is None


@pytest.mark.parametrize(("start", "line"), INVALID)
def test_impossible_command_raises_an_error(start: str, line: str) -> None:
    with pytest.raises(UserError, match=INVALID[start, line]):
        command(after(STARTS[start]), line)


def test_last_command_wins_after_random_interruptions() -> None:
    chance = random.Random(7)
    for _ in range(300):
        state = after("deploy 1, deploy 2")
        for _ in range(6):
            try:
                goal = command(state, chance.choice(LINES))
            except UserError:
                continue
            if goal is None:
                continue
            for _, changed in steps(state, goal):
                state = changed
                if chance.random() < 0.3:
                    break
            assert sum(state.split.values()) in (0, 100)
            assert set(state.split) <= {model.id for model in state.deployed}
        state = reached(state, Goal("deploy", "9"))
        assert traffic(state)["9"] == 100
        assert len(state.deployed) <= 2


def test_another_machine_type_needs_another_deployment_of_the_same_version() -> None:
    state = reached(after("deploy 1, deploy 2"), Goal("deploy", "2"), machine=LARGE)
    assert [
        (model.version, model.machine) for model in state.deployed if state.share(model.id)
    ] == [("2", LARGE)]
    assert state.history == ("2", "1")
    assert traffic(state) == {"1": 0, "2": 100}


def test_more_replicas_need_no_other_deployment() -> None:
    taken = [step for step, _ in steps(after("deploy 1"), Goal("deploy", "1"), replicas=TWO)]
    assert [type(step).__name__ for step in taken] == ["SetLabels", "SetReplicas", "SetLabels"]


def test_first_step_waits_for_a_pending_operation() -> None:
    state = EndpointState(pending=("operations/7",))
    assert next_step(state, Goal("deploy", "1"), SMALL, ONE) == plan.Wait("operations/7")


def test_models_deployed_by_hand_can_be_promoted() -> None:
    by_hand = EndpointState(
        (DeployedModel("11", "4", SMALL, ONE), DeployedModel("12", "5", SMALL, ONE)),
        {"11": 80, "12": 20},
    )
    assert by_hand.primary == "4"
    state = reached(by_hand, Goal("promote", "5"))
    assert traffic(state) == {"4": 0, "5": 100}
    assert state.history == ("5", "4")


@pytest.mark.parametrize("label", ["", "deploy", "deploy-3-4", "canary-3", "canary-3-x", "dance-3"])
def test_label_without_a_goal_parses_to_none(label: str) -> None:
    assert Goal.parse(label) is None


def test_history_is_cut_to_the_length_of_a_label() -> None:
    state = EndpointState()
    for version in map(str, range(1, 60)):
        state = reached(state, Goal("deploy", version))
    assert len(state.labels["served"]) <= 63
    assert state.history[:3] == ("59", "58", "57")


def test_promote_rejects_a_canary_that_was_interrupted_before_it_got_a_request() -> None:
    before = after("deploy 1")
    goal = goal_of(before, "canary 2 10")
    for step, state in steps(before, goal):
        if traffic(state).get("2"):
            assert plan.promote(state) == Goal("promote", "2")
        else:
            with pytest.raises(
                UserError, match="canary of version 2 was interrupted before it got"
            ):
                plan.promote(state)
            assert not isinstance(step, plan.SetTraffic)
