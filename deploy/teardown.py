"""Back to nothing that costs. Whatever interrupts it, running it again ends what is left."""

import functools
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING

from deploy.cli import confirm
from deploy.cost import estimate
from deploy.errors import TransientError, UserError
from deploy.image import staging
from deploy.plan import Deployed, State
from deploy.reconcile import only_ours

if TYPE_CHECKING:
    from deploy.gcp import Google


def undeploy(google: "Google", *, version: str, idle: bool, yes: bool) -> None:
    """End what is deployed: all of it, a version, or what has no traffic (`idle`)."""
    state = google.state()
    if state is None or not (state.deployed or state.pending):
        google.say("nothing is deployed: nothing changed")
        return
    only_ours(google, state)
    state = _settled(google, state)
    chosen = [
        each
        for each in state.deployed
        if (not idle or not state.share(each.id)) and version in ("", each.version)
    ]
    if not chosen:
        google.say("nothing of that kind is deployed: nothing changed")
        return
    ended = sum(state.share(each.id) for each in chosen)
    if ended and len(chosen) < len(state.deployed):
        raise UserError(
            f"version {version} still serves {ended} %",
            "move its traffic first (promote or rollback), or leave --version out to end all",
        )
    gone = [
        f"version {each.version}, which serves: the endpoint will answer nobody"
        for each in chosen
        if state.share(each.id)
    ]
    if gone:
        confirm(google.settings.name, gone, yes=yes or google.dry_run)
    _undeploy(google, state, chosen)


def teardown(google: "Google", *, keep_images: bool, yes: bool) -> None:
    """Delete the endpoint, the model, its batch jobs, the images, and the sources of their builds."""
    s = google.settings
    state, versions, jobs = google.state(), google.versions(), google.batches()
    images = not keep_images and google.has_images()
    sources = google.sources(staging(s)) if not keep_images else []
    found = [
        *([f"the endpoint {s.name}"] if state else []),
        *_of(state or State()),
        *(f"the batch prediction {job.name.rsplit('/', 1)[-1]}" for job in jobs),
        *([f"the model {s.name}: {len(versions)} versions"] if versions else []),
        *([f"the images {s.image_name}"] if images else []),
        *([f"{len(sources)} sources of builds in {staging(s)}"] if sources else []),
    ]
    only_ours(google, state or State())
    if not found:
        google.say(f"nothing of {s.name} is left in {s.project}, {s.region}")
        return
    if state and state.deployed:
        google.say(f"It costs {estimate([(d.machine, d.replicas.least) for d in state.deployed])}.")
    confirm(s.name, found, yes=yes or google.dry_run)
    _endpoint(google)
    for job in jobs:
        google.cancel_batch(job.name)
    if versions:
        _end(google, google.delete_model, google.versions)
    if images:
        _end(google, google.delete_images, google.has_images)
    if sources:
        google.delete_sources(staging(s))
    google.say(f"{'then nothing would be' if google.dry_run else 'nothing is'} left that costs")


def _of(state: State) -> list[str]:
    """Return what runs at an endpoint, a line each."""
    lines = [
        f"  version {each.version}, {each.replicas.least} x {each.machine.type}, {state.share(each.id)} % of traffic"
        for each in state.deployed
    ]
    if state.pending:
        lines.append(
            f"  {len(state.pending)} operations under way: they are cancelled, or waited for"
        )
    return lines


def _endpoint(google: "Google") -> None:
    """Delete the endpoint with all that is deployed to it, or under way."""

    def end() -> None:
        state = google.state()
        if state is None:
            return
        state = _settled(google, state)
        try:
            _undeploy(google, state, state.deployed)
            google.delete_endpoint()
        except UserError as stop:
            # Something may have been deployed in between; it is seen now.
            now = google.state()
            if now is None or now == state or not (now.deployed or now.pending):
                raise
            raise TransientError(stop.message) from None

    google.until_made(end)


def _settled(google: "Google", state: State) -> State:
    """Cancel what is under way and wait for its end: what it deploys would cost unseen."""
    for operation in state.pending:
        if google.dry_run:
            google.cancel(operation)
            continue
        # Neither a refused cancellation nor the error that a cancelled operation ends in matters: the next
        # look tells what is left.
        wait = functools.partial(google.wait, doing="waiting for the end of what is under way")
        for act in (google.cancel, wait):
            try:
                act(operation)
            except (TransientError, UserError) as reason:
                google.say(f"  {reason}")
    return state if google.dry_run else google.state() or State()


def _undeploy(google: "Google", state: State, chosen: Sequence[Deployed]) -> None:
    """End deployed models, the busiest last: Google ends one with traffic only where it is the only one."""
    ordered = sorted(chosen, key=lambda each: state.share(each.id))
    if len(ordered) > 1 and 0 < state.share(ordered[-1].id) < 100:
        google.update(state.etag, state.labels, {ordered[-1].id: 100})
    for each in ordered:

        def is_there(number: str = each.id) -> bool:
            return number in [left.id for left in (google.state() or State()).deployed]

        _end(google, functools.partial(google.undeploy, each.id), is_there)


def _end(google: "Google", act: Callable[[], None], is_there: Callable[[], object]) -> None:
    """Delete what is there, however often the connection breaks."""

    def end() -> None:
        if is_there():
            act()

    google.until_made(end)
