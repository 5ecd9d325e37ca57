"""Walk towards a goal: look, take one step, look again."""

from deploy.errors import Lost, Stop
from deploy.google import Google
from deploy.plan import (
    Deploy,
    Goal,
    Label,
    MakeDefault,
    Resize,
    Shift,
    State,
    Undeploy,
    Wait,
    apply,
    next_step,
)

PATIENCE = 8
"""Looks in a row that may find the connection broken or somebody else at work."""


def look(google: Google) -> State:
    """Return the endpoint's state, an endpoint being made where there is none."""
    for _ in range(PATIENCE):
        state = google.state()
        if state is not None and (state.etag or not state.pending):
            only_ours(google, state)
            return state
        try:
            if state is not None:
                google.wait(state.pending[0], "waiting for the endpoint that is being created")
            else:
                google.create_endpoint()
                if google.dry_run:
                    return State(etag="dry run", dedicated=google.settings.dedicated)
        except Lost as lost:
            google.say(f"  {lost}; looking again")
    raise Stop(
        "the endpoint does not come into being",
        "python -m deploy status, then the same command again",
    )


def reach(google: Google, goal: Goal, state: State) -> bool:
    """Take step after step until the goal is reached; return whether any was needed."""
    machine, replicas = google.settings.machine, google.settings.replicas
    lost = steps = 0
    while step := next_step(state, goal, machine, replicas):
        steps += 1
        try:
            _take(google, step, state)
            lost = 0
        except Lost as reason:
            lost += 1
            if lost == PATIENCE:
                raise Stop(
                    str(reason), "run the same command again: it goes on where it was"
                ) from None
            google.say(f"  {reason}; looking again")
        state = apply(state, step, machine, replicas) if google.dry_run else _again(google)
    return steps > 0


def _again(google: Google) -> State:
    state = google.state()
    if state is None:
        raise Stop("the endpoint was deleted meanwhile", "run the same command again")
    return state


def _take(google: Google, step: object, state: State) -> None:
    match step:
        case Wait(operation):
            google.wait(operation, "waiting for what is already under way")
        case Label(labels):
            google.update(state.etag, labels)
        case Deploy(version):
            google.deploy(version)
        case Resize(number, replicas):
            google.resize(number, replicas)
        case Shift(split, labels):
            versions = {each.id: each.version for each in state.deployed}
            shares = ", ".join(
                f"version {versions[number]} {share} %" for number, share in split.items()
            )
            google.say(f"→ traffic: {shares}")
            google.update(state.etag, labels, split)
        case Undeploy(number):
            google.undeploy(number)
        case MakeDefault(version):
            google.make_default(version)


def only_ours(google: Google, state: State) -> None:
    """Refuse to touch an endpoint that also serves another model."""
    name = google.settings.name
    if others := sorted({each.model for each in state.deployed} - {name, ""}):
        raise Stop(
            f"the endpoint {name} also serves another model: {', '.join(others)}",
            "undeploy it, or give this model a name of its own: name in deploy.toml",
        )


def right_kind(google: Google, state: State) -> None:
    """Refuse to deploy to a shared endpoint where a dedicated one is wanted, or the other way round."""
    wanted = google.settings.dedicated
    if state.dedicated != wanted:
        raise Stop(
            f"{google.settings.name} is a {'dedicated' if state.dedicated else 'shared'} endpoint, "
            f"and dedicated = {str(wanted).lower()}",
            f"Google cannot change that: dedicated = {str(state.dedicated).lower()} in deploy.toml, "
            "another name, or make teardown before",
        )
