"""What there is, what it serves, since when, and what it costs."""

from datetime import UTC, datetime
from typing import TYPE_CHECKING

from deploy.cost import estimate
from deploy.plan import Deployed, Machine, State

if TYPE_CHECKING:
    from deploy.gcp import Google


def status(google: "Google") -> None:
    """Print everything in the region that runs, and everything that is under way."""
    s = google.settings
    state, versions = google.state(), {each.version_id: each for each in google.versions()}
    running: list[tuple[Machine, int]] = []
    google.say(f"{s.project}, {s.region}")
    if state is None:
        google.say(f"  endpoint {s.name}: there is none (make deploy-endpoint)")
    else:
        google.say(f"  endpoint {s.name}: {len(state.deployed)} deployed")
        for each in state.deployed:
            known = versions.get(each.version)
            commit = known.labels.get("git-commit", "")[:7] if known else ""
            origin = f", commit {commit}" if commit else ""
            google.say(f"    {state.share(each.id):3} %  {_line(each)}{origin}")
            running.append((each.machine, each.replicas.least))
        _advise(google, state)
    for operation in state.pending if state else google.pending(s.endpoint):
        google.say(
            f"  under way: operation {operation.rsplit('/', 1)[-1]} (what it deploys costs when it ends)"
        )
    for name, deployed, split in google.all_endpoints():
        identity = name.rsplit("/", 1)[-1]
        if deployed and identity != s.name:
            google.say(f"  another endpoint, {identity}:")
            for each in deployed:
                google.say(f"    {split.get(each.id, 0):3} %  {each.model} {_line(each)}")
                running.append((each.machine, each.replicas.least))
    for job in google.batches():
        resources = job.dedicated_resources
        machine, count = resources.machine_spec.machine_type, resources.starting_replica_count
        since = _ago(job.create_time.isoformat() if job.create_time else "")
        identity, word = job.name.rsplit("/", 1)[-1], google.batch_state(job).lower()
        google.say(f"  batch prediction {identity}: {word}, {count} x {machine}, since {since}")
        running.append((Machine(machine), count))
    newest = f", the newest {max(versions, key=int)}" if versions else ""
    google.say(f"  model {s.name}: {len(versions)} versions{newest}")
    google.say(
        f"  costs {estimate(running)}" if running else "  nothing runs, nothing costs by the hour"
    )


def _advise(google: "Google", state: State) -> None:
    if goal := state.goal:
        google.say(
            f"    not finished: {goal.verb} of version {goal.version}. Run it again, or: python -m deploy rollback"
        )
    if idle := [each for each in state.deployed if not state.share(each.id)]:
        hour = estimate([(each.machine, each.replicas.least) for each in idle]).hour
        names = ", ".join(each.version for each in idle)
        google.say(
            f"    version {names} waits without traffic, for a rollback in seconds, at ${hour:.2f} an hour"
        )
        google.say("      (python -m deploy undeploy --idle ends that)")
    if state.deployed and not any(state.share(each.id) for each in state.deployed):
        google.say("    nothing of it gets traffic: python -m deploy deploy")


def _line(each: Deployed) -> str:
    """Return a deployed model in words."""
    machine = each.machine
    extra = f" + {machine.accelerators} {machine.accelerator}" if machine.accelerators else ""
    size = f"{each.replicas.least} to {each.replicas.most} x {machine.type}{extra}"
    hour = estimate([(each.machine, each.replicas.least)]).hour
    return f"version {each.version}, deployed model {each.id}, {size}, since {_ago(each.since)}, ${hour:.2f} an hour"


def _ago(moment: str) -> str:
    if not moment:
        return "just now"
    minutes = (datetime.now(UTC) - datetime.fromisoformat(moment)).total_seconds() / 60
    for size, name in ((60 * 24, "days"), (60, "hours")):
        if minutes >= 2 * size:
            return f"{minutes / size:.0f} {name}"
    return f"{max(minutes, 0):.0f} minutes"
