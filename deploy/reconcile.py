"""Walk towards a goal: look, take one step, look again."""

from typing import TYPE_CHECKING

from deploy import plan
from deploy.errors import UserError
from deploy.plan import Goal, State

if TYPE_CHECKING:
    from deploy.gcp import Google


def look(google: "Google") -> State:
    """Return the endpoint's state, an endpoint being made where there is none."""

    def make() -> State:
        state = google.state()
        if state is None:
            google.create_endpoint()
            if google.dry_run:
                return State(etag="dry run", dedicated=google.settings.dedicated)
            return _again(google)
        if not state.etag and state.pending:
            google.wait(state.pending[0], "waiting for the endpoint that is being created")
            return _again(google)
        return state

    state = google.until_made(make)
    only_ours(google, state)
    return state


def reconcile(google: "Google", goal: Goal, state: State) -> bool:
    """Take step after step until the goal is reached; return whether any was needed."""
    machine, replicas = google.settings.machine, google.settings.replicas
    steps = 0

    def take_one() -> bool:
        nonlocal state, steps
        if steps and not google.dry_run:
            state = _again(google)
        step = plan.next_step(state, goal, machine, replicas)
        if step is None:
            return False
        steps += 1
        _take(google, step, state)
        if google.dry_run:
            state = plan.apply(state, step, machine, replicas)
        return True

    while google.until_made(take_one):
        pass
    return steps > 0


def _again(google: "Google") -> State:
    state = google.state()
    if state is None:
        raise UserError("the endpoint was deleted meanwhile", "run the same command again")
    return state


def _take(google: "Google", step: plan.Step, state: State) -> None:
    match step:
        case plan.Wait(operation):
            google.wait(operation, "waiting for what is already under way")
        case plan.Deploy(version):
            google.deploy(version)
        case plan.Resize(number, replicas):
            google.resize(number, replicas)
        case plan.Update(labels, split):
            if split is not None:
                versions = {each.id: each.version for each in state.deployed}
                shares = [f"version {versions[each]} {share} %" for each, share in split.items()]
                google.say(f"→ traffic: {', '.join(shares)}")
            google.update(state.etag, labels, split)
        case plan.Undeploy(number):
            google.undeploy(number)
        case plan.MakeDefault(version):
            google.make_default(version)


def only_ours(google: "Google", state: State) -> None:
    """Refuse to touch an endpoint that also serves another model."""
    name = google.settings.name
    if others := sorted({each.model for each in state.deployed} - {name, ""}):
        raise UserError(
            f"the endpoint {name} also serves another model: {', '.join(others)}",
            "undeploy it, or give this model a name of its own: name in deploy.toml",
        )


def right_kind(google: "Google", state: State) -> None:
    """Refuse to deploy to a shared endpoint where a dedicated one is wanted, or the other way round."""
    wanted = google.settings.dedicated
    if state.dedicated != wanted:
        raise UserError(
            f"{google.settings.name} is a {'dedicated' if state.dedicated else 'shared'} endpoint, "
            f"and dedicated = {str(wanted).lower()}",
            f"Google cannot change that: dedicated = {str(state.dedicated).lower()} in deploy.toml, "
            "another name, or make teardown before",
        )
