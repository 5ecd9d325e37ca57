"""Who serves: every command reaches its goal, from wherever an interruption left it."""

import random
from collections.abc import Iterator
from dataclasses import replace

import pytest

from deploy import plan
from deploy.errors import UserError
from deploy.plan import Deployed, Goal, Machine, Replicas, State, apply, next_step

SMALL, LARGE = Machine("e2-standard-2"), Machine("n1-standard-8")
ONE, TWO = Replicas(1, 2), Replicas(2, 4)


def steps(
    state: State, goal: Goal, machine: Machine = SMALL, replicas: Replicas = ONE
) -> Iterator[tuple[plan.Step, State]]:
    """Give each step with the state after it; a goal that is never reached is a bug."""
    for _ in range(30):
        step = next_step(state, goal, machine, replicas)
        if step is None:
            return
        state = _renamed(apply(state, step, machine, replicas), machine)
        yield step, state
    raise AssertionError(f"{goal} is not reached from {state}")


def reached(state: State, goal: Goal, machine: Machine = SMALL, replicas: Replicas = ONE) -> State:
    for _, changed in steps(state, goal, machine, replicas):
        state = changed
    return state


def _renamed(state: State, machine: Machine) -> State:
    """Give a new deployed model an ID of its own, as Google does."""
    count = len(state.deployed)

    def named(each: Deployed) -> Deployed:
        if not each.id.startswith("new"):
            return each
        return replace(each, id=f"{count}-{each.version}-{machine.type}", since=f"2026-{count}")

    return replace(state, deployed=tuple(map(named, state.deployed)))


def command(state: State, line: str) -> Goal | None:
    """Return the goal of a command such as "deploy 3" or "canary 3 10", as the command line makes it."""
    verb, *given = line.split()
    if verb == "deploy":
        return Goal("deploy", given[0])
    if verb == "canary":
        return plan.canary(state, given[0], int(given[1]))
    return plan.promote(state) if verb == "promote" else plan.rollback(state)


def goal_of(state: State, line: str) -> Goal:
    """Return the goal of a command that has something to do."""
    goal = command(state, line)
    assert goal is not None
    return goal


def after(lines: str) -> State:
    """Return an endpoint after these commands, separated by commas."""
    state = State()
    for line in filter(None, lines.split(", ")):
        state = reached(state, goal_of(state, line))
    return state


def traffic(state: State) -> dict[str, int]:
    return {each.version: state.share(each.id) for each in state.deployed}


@pytest.mark.parametrize(
    ("lines", "expected", "served"),
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
def test_who_serves_what_after_some_commands(
    lines: str, expected: dict[str, int], served: str
) -> None:
    state = after(lines)
    assert traffic(state) == expected
    assert state.served == tuple(served)
    assert state.default == served[0]


@pytest.mark.parametrize(
    ("before", "line"),
    [
        ("deploy 1, deploy 2", "deploy 2"),
        ("deploy 1, deploy 2, deploy 3, rollback", "rollback"),
        ("deploy 1, deploy 2, canary 3 10, rollback", "rollback"),
    ],
)
def test_a_command_run_twice_changes_nothing(before: str, line: str) -> None:
    assert not list(steps(after(before), goal_of(after(before), line)))


def test_rollback_deploys_the_version_before_where_it_was_undeployed() -> None:
    state = reached(after("deploy 1, deploy 2"), Goal("rollback", "2"))
    assert traffic(state) == {"2": 100}
    state = State(state.deployed, state.split, {"served": "2-1"}, (), "2")
    assert traffic(reached(state, plan.rollback(state))) == {"1": 100}


STARTS = {
    "nothing": "",
    "one version": "deploy 1",
    "two versions": "deploy 1, deploy 2",
    "a canary": "deploy 1, deploy 2, canary 3 10",
    "a rollback": "deploy 1, deploy 2, rollback",
}
"""Endpoints that a command may find."""
LINES = ("deploy 3", "canary 3 10", "promote", "rollback")
REFUSED = {
    ("nothing", "canary 3 10"): "nothing serves yet",
    ("nothing", "promote"): "nothing is deployed",
    ("nothing", "rollback"): "no version has served yet",
    ("one version", "rollback"): "no version before 1",
    ("one version", "canary 1 10"): "already serves",
}
DONE = [("one version", "promote"), ("two versions", "promote"), ("a rollback", "promote")]
CASES = [
    (start, line) for start in STARTS for line in LINES if (start, line) not in [*DONE, *REFUSED]
]


def points(state: State, goal: Goal) -> Iterator[State]:
    """Give every state that an interruption may leave, with and without something under way at Google."""
    for each in (state, *(changed for _, changed in steps(state, goal))):
        yield each
        yield replace(each, pending=("operations/1",))


@pytest.mark.parametrize(("start", "line"), CASES)
def test_interrupted_at_any_step_and_run_again_it_ends_as_if_it_had_not_been(
    start: str, line: str
) -> None:
    before = after(STARTS[start])
    goal = goal_of(before, line)
    whole = reached(before, goal)
    assert traffic(whole)[goal.version] == goal.percent
    for point in points(before, goal):
        again = command(point, line)
        # Once the last step is taken nothing is left to promote.
        end = reached(point, again) if again else replace(point, pending=())
        assert traffic(end) == traffic(whole)
        assert (dict(end.labels), end.default) == (dict(whole.labels), whole.default)


@pytest.mark.parametrize("line", ["deploy 3", "canary 3 10"])
@pytest.mark.parametrize("start", ["one version", "two versions", "a rollback"])
def test_a_rollback_undoes_what_was_interrupted_at_any_step_of_it(start: str, line: str) -> None:
    before = after(STARTS[start])
    goal = goal_of(before, line)
    states = [state for _, state in steps(before, goal)]
    # After the last step of a deploy nothing is midway any more: that is another test's.
    for point in states[:-1] if goal.verb == "deploy" else states:
        end = reached(point, plan.rollback(point))
        assert traffic(end) == {before.head: 100}


@pytest.mark.parametrize(("start", "line"), DONE)
def test_where_there_is_no_canary_promote_has_nothing_to_do(start: str, line: str) -> None:
    assert command(after(STARTS[start]), line) is None


@pytest.mark.parametrize(("start", "line"), REFUSED)
def test_what_cannot_be_is_refused(start: str, line: str) -> None:
    with pytest.raises(UserError, match=REFUSED[start, line]):
        command(after(STARTS[start]), line)


def test_whatever_is_interrupted_by_whatever_the_last_command_wins() -> None:
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
            assert set(state.split) <= {each.id for each in state.deployed}
        state = reached(state, Goal("deploy", "9"))
        assert traffic(state)["9"] == 100
        assert len(state.deployed) <= 2


def test_another_machine_type_is_another_deployment_of_the_same_version() -> None:
    state = reached(after("deploy 1, deploy 2"), Goal("deploy", "2"), machine=LARGE)
    assert [(each.version, each.machine) for each in state.deployed if state.share(each.id)] == [
        ("2", LARGE)
    ]
    assert state.served == ("2", "1")
    assert traffic(state) == {"1": 0, "2": 100}


def test_more_replicas_need_no_other_deployment() -> None:
    taken = [step for step, _ in steps(after("deploy 1"), Goal("deploy", "1"), replicas=TWO)]
    assert [type(step).__name__ for step in taken] == ["Update", "Resize", "Update"]


def test_what_is_under_way_is_waited_for_before_anything_else() -> None:
    state = State(pending=("operations/7",))
    assert next_step(state, Goal("deploy", "1"), SMALL, ONE) == plan.Wait("operations/7")


def test_what_was_deployed_by_hand_is_taken_as_it_is() -> None:
    by_hand = State(
        (Deployed("11", "4", SMALL, ONE), Deployed("12", "5", SMALL, ONE)), {"11": 80, "12": 20}
    )
    assert by_hand.head == "4"
    state = reached(by_hand, Goal("promote", "5"))
    assert traffic(state) == {"4": 0, "5": 100}
    assert state.served == ("5", "4")


@pytest.mark.parametrize("label", ["", "deploy", "deploy-3-4", "canary-3", "canary-3-x", "dance-3"])
def test_a_label_that_is_no_goal_is_none(label: str) -> None:
    assert Goal.read(label) is None


def test_the_history_fits_into_a_label() -> None:
    state = State()
    for version in map(str, range(1, 60)):
        state = reached(state, Goal("deploy", version))
    assert len(state.labels["served"]) <= 63
    assert state.served[:3] == ("59", "58", "57")
