"""Who serves: every command reaches its goal, from wherever an interruption left it."""

import random
from collections.abc import Iterator
from dataclasses import replace

import pytest

from deploy import plan
from deploy.errors import Stop
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
    for _, after in steps(state, goal, machine, replicas):
        state = after
    return state


def _renamed(state: State, machine: Machine) -> State:
    """Give a new deployed model an ID of its own, as Google does."""
    count = len(state.deployed)

    def named(each: Deployed) -> Deployed:
        if not each.id.startswith("new"):
            return each
        return replace(each, id=f"{count}-{each.version}-{machine.type}", since=f"2026-{count}")

    return replace(state, deployed=tuple(map(named, state.deployed)))


def serving(*versions: str) -> State:
    """Return an endpoint at which these versions served everything, one after the other."""
    state = State()
    for version in versions:
        state = reached(state, Goal("deploy", version))
    return state


def traffic(state: State) -> dict[str, int]:
    return {each.version: state.share(each.id) for each in state.deployed}


def test_the_first_version_serves_everything() -> None:
    state = serving("1")
    assert traffic(state) == {"1": 100}
    assert state.served == ("1",)
    assert state.default == "1"


def test_run_twice_it_changes_nothing() -> None:
    assert not list(steps(serving("1", "2"), Goal("deploy", "2")))


def test_the_version_before_stays_without_traffic_and_the_one_before_that_goes() -> None:
    assert traffic(serving("1", "2", "3")) == {"2": 0, "3": 100}


def test_a_canary_takes_its_part_from_the_one_that_serves() -> None:
    state = serving("1", "2")
    state = reached(state, plan.canary(state, "3", 10))
    assert traffic(state) == {"2": 90, "3": 10}
    assert state.served == ("2", "1")
    assert state.default == "2"


def test_a_canarys_part_can_be_changed() -> None:
    state = serving("1")
    for percent in (10, 50):
        state = reached(state, plan.canary(state, "2", percent))
    assert traffic(state) == {"1": 50, "2": 50}


def test_promote_lets_the_canary_serve_everything() -> None:
    state = serving("1")
    state = reached(state, plan.canary(state, "2", 10))
    goal = plan.promote(state)
    assert goal == Goal("promote", "2")
    state = reached(state, goal)
    assert traffic(state) == {"1": 0, "2": 100}
    assert (state.served, state.default) == (("2", "1"), "2")
    assert plan.promote(state) is None


def test_rollback_ends_a_canary() -> None:
    state = serving("1", "2")
    state = reached(state, plan.canary(state, "3", 10))
    state = reached(state, plan.rollback(state))
    assert traffic(state) == {"2": 100}


def test_rollback_goes_to_the_version_before() -> None:
    state = serving("1", "2", "3")
    state = reached(state, plan.rollback(state))
    assert traffic(state) == {"2": 100}
    assert (state.served, state.default) == (("2", "1"), "2")
    with pytest.raises(Stop, match="no version before 1"):
        plan.rollback(serving("1"))


@pytest.mark.parametrize("canary", [False, True], ids=["of a deploy", "of a canary"])
def test_a_second_rollback_does_not_go_further_back(*, canary: bool) -> None:
    state = serving("1", "2") if canary else serving("1", "2", "3")
    if canary:
        state = reached(state, plan.canary(state, "3", 10))
    state = reached(state, plan.rollback(state))
    assert not list(steps(state, plan.rollback(state)))


def test_a_rollback_after_another_deploy_is_a_new_one() -> None:
    state = serving("1", "2", "3")
    state = reached(state, plan.rollback(state))
    state = reached(state, Goal("deploy", "4"))
    state = reached(state, plan.rollback(state))
    assert traffic(state) == {"2": 100}


def test_rollback_deploys_the_version_before_where_it_was_undeployed() -> None:
    state = reached(serving("1", "2"), Goal("rollback", "2"))
    assert traffic(state) == {"2": 100}
    state = State(state.deployed, state.split, {"served": "2-1"}, (), "2")
    assert traffic(reached(state, plan.rollback(state))) == {"1": 100}


def command(state: State, verb: str) -> Goal | None:
    """Return the goal of a command, as the command line makes it."""
    if verb == "deploy":
        return Goal("deploy", "3")
    if verb == "canary":
        return plan.canary(state, "3", 10)
    return plan.promote(state) if verb == "promote" else plan.rollback(state)


def starts() -> dict[str, State]:
    """Return endpoints that a command may find."""
    two = serving("1", "2")
    return {
        "nothing": State(),
        "one version": serving("1"),
        "two versions": two,
        "a canary": reached(two, plan.canary(two, "3", 10)),
        "a rollback": reached(two, plan.rollback(two)),
    }


REFUSED = {
    ("nothing", "canary"): "nothing serves yet",
    ("nothing", "promote"): "nothing is deployed",
    ("nothing", "rollback"): "no version has served yet",
    ("one version", "rollback"): "no version before 1",
}
DONE = [("one version", "promote"), ("two versions", "promote"), ("a rollback", "promote")]
CASES = [
    (start, verb)
    for start in starts()
    for verb in ("deploy", "canary", "promote", "rollback")
    if (start, verb) not in [*DONE, *REFUSED]
]


def points(state: State, goal: Goal) -> Iterator[State]:
    """Give every state that an interruption may leave, with and without something under way at Google."""
    for each in (state, *(after for _, after in steps(state, goal))):
        yield each
        yield replace(each, pending=("operations/1",))


@pytest.mark.parametrize(("start", "verb"), CASES)
def test_interrupted_at_any_step_and_run_again_it_ends_as_if_it_had_not_been(
    start: str, verb: str
) -> None:
    goal = command(starts()[start], verb)
    assert goal is not None
    whole = reached(starts()[start], goal)
    assert traffic(whole)[goal.version] == goal.percent
    for point in points(starts()[start], goal):
        again = command(point, verb)
        # Once the last step is taken nothing is left to promote.
        end = reached(point, again) if again else replace(point, pending=())
        assert (traffic(end), dict(end.labels), end.default) == (
            traffic(whole),
            dict(whole.labels),
            whole.default,
        )


@pytest.mark.parametrize("verb", ["deploy", "canary"])
@pytest.mark.parametrize("start", ["one version", "two versions", "a rollback"])
def test_a_rollback_undoes_what_was_interrupted_at_any_step_of_it(start: str, verb: str) -> None:
    before = starts()[start]
    goal = command(before, verb)
    assert goal is not None
    states = [after for _, after in steps(before, goal)]
    # After the last step of a deploy nothing is midway any more: that is another test's.
    for point in states[:-1] if verb == "deploy" else states:
        end = reached(point, plan.rollback(point))
        assert traffic(end) == {before.head: 100}


@pytest.mark.parametrize(("start", "verb"), DONE)
def test_where_there_is_no_canary_promote_has_nothing_to_do(start: str, verb: str) -> None:
    assert command(starts()[start], verb) is None


@pytest.mark.parametrize(("start", "verb"), REFUSED)
def test_what_cannot_be_is_refused(start: str, verb: str) -> None:
    with pytest.raises(Stop, match=REFUSED[start, verb]):
        command(starts()[start], verb)


def test_whatever_is_interrupted_by_whatever_the_last_command_wins() -> None:
    chance = random.Random(7)
    for _ in range(300):
        state = serving("1", "2")
        for _ in range(6):
            verb = chance.choice(["deploy", "canary", "promote", "rollback"])
            try:
                goal = command(state, verb)
            except Stop:
                continue
            if goal is None:
                continue
            for _, after in steps(state, goal):
                state = after
                if chance.random() < 0.3:
                    break
            assert sum(state.split.values()) in (0, 100)
            assert set(state.split) <= {each.id for each in state.deployed}
        state = reached(state, Goal("deploy", "9"))
        assert traffic(state)["9"] == 100
        assert len(state.deployed) <= 2


def test_another_machine_type_is_another_deployment_of_the_same_version() -> None:
    state = reached(serving("1", "2"), Goal("deploy", "2"), machine=LARGE)
    assert [(each.version, each.machine) for each in state.deployed if state.share(each.id)] == [
        ("2", LARGE)
    ]
    assert state.served == ("2", "1")
    assert traffic(state) == {"1": 0, "2": 100}


def test_more_replicas_need_no_other_deployment() -> None:
    taken = [step for step, _ in steps(serving("1"), Goal("deploy", "1"), replicas=TWO)]
    assert [type(step).__name__ for step in taken] == ["Label", "Resize", "Label"]


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


def test_a_canary_of_what_serves_is_refused() -> None:
    with pytest.raises(Stop, match="already serves"):
        plan.canary(serving("1"), "1", 10)
