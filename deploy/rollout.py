"""Who serves: deploy, canary, promote, rollback, and deploy-endpoint, which does all that is missing."""

from pathlib import Path
from typing import TYPE_CHECKING

from deploy import plan, predict, versions
from deploy.canary_analysis import Limits, find_trouble
from deploy.cost import estimate
from deploy.errors import UserError
from deploy.image import find
from deploy.plan import Goal, State
from deploy.reconcile import look, reconcile, right_kind
from deploy.roles import NEEDED, WHOLE, grant

if TYPE_CHECKING:
    from deploy.gcp import Google


def endpoint(google: "Google", request: Path | None) -> None:
    """Make whatever is missing between here and an endpoint that answers."""
    if request is not None:
        predict.body(request)  # whatever is wrong with it is said before anything is begun
    check_permissions(google)
    _deploy(google, versions.ensure_uploaded(google))
    if not google.dry_run:
        predict.try_it(google, request)


def deploy(google: "Google", version: str) -> None:
    """Let a version serve everything."""
    _deploy(google, versions.chosen(google, version))


def _deploy(google: "Google", version: str) -> None:
    state = look(google)
    right_kind(google, state)
    goal = Goal("deploy", version)
    if reconcile(google, goal, state):
        _served(google, version)
    else:
        google.say(f"version {version} serves everything already: nothing changed")


def canary(  # noqa: PLR0913  an option each
    google: "Google",
    *,
    version: str,
    traffic: int,
    watch: float | None,
    max_error_rate: float,
    max_p95: float,
) -> None:
    """Let a version serve `traffic` percent, and `watch` it for some minutes, if asked to."""
    version = versions.chosen(google, version)
    state = look(google)
    right_kind(google, state)
    if not reconcile(google, plan.canary(state, version, traffic), state):
        google.say(f"version {version} has its {traffic} % already: nothing changed")
    if watch is None or google.dry_run:
        google.say("next: python -m deploy promote, or rollback")
        return
    trouble = find_trouble(google, version, Limits(watch, max_error_rate, max_p95))
    if trouble is None:
        google.say(f"version {version} kept within the limits. Next: python -m deploy promote")
        return
    google.say(f"version {version}: {trouble}. Rolling back")
    rollback(google)
    raise UserError(f"the canary was rolled back: {trouble}", "python -m deploy status")


def promote(google: "Google") -> None:
    """Let the canary serve everything; the version before stays, without traffic, for a rollback in seconds."""
    state = look(google)
    goal = plan.promote(state)
    if goal is None:
        google.say(f"version {state.head} serves everything already: nothing changed")
    else:
        reconcile(google, goal, state)
        _served(google, goal.version)


def rollback(google: "Google") -> None:
    """Let the version before serve everything again, and end the other."""
    if google.state() is None:
        missing = f"there is no endpoint {google.settings.name} in {google.settings.region}"
        raise UserError(missing, "make deploy-endpoint")
    state = look(google)
    goal = plan.rollback(state)
    if reconcile(google, goal, state):
        google.say(f"version {goal.version} serves everything again")
        return
    further = [version for version in state.served if version != goal.version][:1]
    google.say(
        f"version {goal.version} serves everything, as the last rollback left it: nothing changed"
    )
    if further:
        google.say(f"  further back: python -m deploy deploy --version {further[0]}")


def check_permissions(google: "Google") -> None:
    """Say which permissions are missing before anything is begun that takes minutes."""
    s = google.settings
    needed = [*NEEDED["upload"], *NEEDED["deploy"], *NEEDED["predict"]]
    if find(google) is None:
        needed += [*NEEDED["push"], *NEEDED["repository"]]
        needed += NEEDED["build"] if s.builder == "cloud" else ()
    lacking = google.lacking(tuple(needed))
    missing = [each for each in lacking if each.startswith(WHOLE)]
    if missing:
        commands = list(dict.fromkeys(grant(s.project, permission) for permission in missing))
        raise UserError(
            f"permissions are missing in {s.project}: {', '.join(missing)}", "\n  ".join(commands)
        )
    for permission in lacking:
        google.say(
            f"{permission} is not granted by the project: good if the repository or bucket does"
        )


def _served(google: "Google", version: str) -> None:
    google.say(f"version {version} serves everything")
    if google.dry_run:
        return
    deployed = (google.state() or State()).deployed
    cost = estimate([(each.machine, each.replicas.least) for each in deployed])
    google.say(f"  it costs {cost}; `python -m deploy teardown` ends that")
    if idle := [each.version for each in deployed if each.version != version]:
        google.say(
            f"  version {idle[0]} is in that: it waits for a rollback; `undeploy --idle` ends that"
        )
