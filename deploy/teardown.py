"""The commands that delete: undeploy, teardown. After an interruption, both can be run again."""

import functools
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING

from deploy import places
from deploy.cli import confirm
from deploy.clients import CloudClients
from deploy.cloud_build import source_folder
from deploy.cost import estimate_cost
from deploy.errors import DeployError, TransientError, UserError
from deploy.inventory import Inventory, take_inventories, take_inventory
from deploy.places import Place
from deploy.plan import DeployedModel, EndpointState
from deploy.reconcile import check_ownership
from deploy.settings import Settings
from deploy.text import plural

if TYPE_CHECKING:
    from deploy.gcp.jobs import Job

MAX_ROUNDS = 3
"""How often teardown deletes what it finds: what it cancels may have created something meanwhile."""
EMPTY = EndpointState()


def undeploy(cloud: CloudClients, *, version: str, idle: bool, yes: bool) -> None:
    """Undeploy all deployed models, or those of a version, or those without traffic (`idle`)."""
    state = cloud.vertex.endpoint_state()
    if state is None or not (state.deployed or state.pending):
        cloud.report(f"no version is deployed in {cloud.settings.place}: nothing changed")
        return
    check_ownership(cloud, state)
    state = _cancel_pending(cloud, state)
    chosen = [
        model
        for model in state.deployed
        if (not idle or not state.share(model.id)) and version in ("", model.version)
    ]
    if not chosen:
        cloud.report("no such version is deployed: nothing changed")
        return
    serving = [model for model in chosen if state.share(model.id)]
    if serving and len(chosen) < len(state.deployed):
        share = sum(state.share(model.id) for model in serving)
        hint = "move its traffic first (promote or rollback), or omit --version to undeploy all"
        raise UserError(f"version {version} still serves {share} %", hint)
    if serving:
        items = [
            f"version {model.version}, which serves: the endpoint will answer no request"
            for model in serving
        ]
        confirm(cloud.settings.name, items, yes=yes or cloud.dry_run)
    _undeploy(cloud, state, chosen)


def teardown(cloud: CloudClients, *, keep_images: bool, all_regions: bool, yes: bool) -> None:
    """Delete everything that the name has, in every place where it was deployed.

    A project or a region of an option or a variable limits that to the places in it; the others are reported.
    A place is forgotten once nothing is left there.
    """
    s = cloud.settings
    found: list[tuple[CloudClients, Inventory]] = []
    elsewhere: list[Place] = []
    inventories = take_inventories(cloud, all_regions=all_regions, images=not keep_images)
    for each, inventory in inventories:
        place = each.settings.place
        check_ownership(each, inventory.endpoint or EMPTY)
        for line in inventory.unchecked:
            cloud.report(f"{place}: {line}")
        if inventory.is_empty:
            cloud.report(f"{place}: nothing of {s.name} to delete")
            _forget(each, inventory, keep_images=keep_images)
        elif _is_selected(s, place, all_regions=all_regions):
            found.append((each, inventory))
        else:
            elsewhere.append(place)
    if found:
        _delete_found(cloud, found, keep_images=keep_images, yes=yes)
    else:
        cloud.report("nothing changed")
    for place in elsewhere:
        cloud.report(
            f"{place}: there is more of {s.name}; to delete it: "
            f"make teardown PROJECT={place.project} REGION={place.region}"
        )


def _is_selected(s: Settings, place: Place, *, all_regions: bool) -> bool:
    """Return whether the place is in the project and the region of this command, if it names them."""
    is_region = all_regions or "region" not in s.named or place.region == s.region
    return is_region and ("project" not in s.named or place.project == s.project)


def _delete_found(
    cloud: CloudClients,
    found: Sequence[tuple[CloudClients, Inventory]],
    *,
    keep_images: bool,
    yes: bool,
) -> None:
    """Delete what was found, after confirmation."""
    if deployed := [model for _, each in found for model in (each.endpoint or EMPTY).deployed]:
        cost = estimate_cost((model.machine, model.replicas.minimum) for model in deployed)
        cloud.report(f"current cost: {cost}")
    items = [line for each, inventory in found for line in _describe(each.settings, inventory)]
    confirm(cloud.settings.name, items, yes=yes or cloud.dry_run)
    errors = []
    for each, inventory in found:
        try:
            _delete_all(each, inventory, keep_images=keep_images)
        except DeployError as error:  # the other places cost too
            errors.append(error)
            if len(found) > 1:
                cloud.report(f"{each.settings.place}: {error.message}")
    if errors:
        raise errors[0]


def _describe(s: Settings, found: Inventory) -> list[str]:
    """Return a line for the place, and one for each resource that will be deleted there."""
    state = found.endpoint or EMPTY
    items = [
        *(f"the {job}, {job.state.lower()}" for job in found.jobs),
        *(f"the schedule {name.rpartition('/')[2]} of the pipeline" for name in found.schedules),
        *([f"the function {s.name}"] if found.function else []),
        *([f"the endpoint {s.name}"] if found.endpoint else []),
        *(
            f"  version {model.version}, {model.replicas.minimum} x {model.machine.type}, "
            f"{state.share(model.id)} % of traffic"
            for model in state.deployed
        ),
        *([f"  {len(state.pending)} pending operations"] if state.pending else []),
        *([f"{len(found.uploads)} pending uploads of the model"] if found.uploads else []),
        *(
            [f"the model {s.name}, {plural(len(found.versions), 'version')}"]
            if found.versions
            else []
        ),
        *([f"the images {s.image_name}"] if found.images else []),
        *(
            [f"{plural(found.sources, 'build source')} in {source_folder(s)}"]
            if found.sources
            else []
        ),
    ]
    return [f"{s.place}:", *(f"  {item}" for item in items)]


def _delete_all(cloud: CloudClients, found: Inventory, *, keep_images: bool) -> None:
    """Delete what was found, and then what a build or an operation has created meanwhile.

    Raises UserError if something is left.
    """
    s = cloud.settings
    for _ in range(MAX_ROUNDS):
        # First what creates other resources: a schedule starts jobs; a build deploys; an upload makes a version.
        for name in found.schedules:
            cloud.jobs.delete_schedule(name)
        _end_jobs(cloud, found.jobs)
        _end_operations(cloud, found.uploads, "waiting for a pending upload")
        if found.function:
            cloud.jobs.delete_function()
        _delete_endpoint(cloud)
        vertex, artifacts = cloud.vertex, cloud.artifacts
        if found.versions or vertex.versions():
            _delete(cloud, vertex.delete_model, vertex.versions)
        if not keep_images and artifacts.has_images():
            _delete(cloud, artifacts.delete_images, artifacts.has_images)
        if found.sources:
            cloud.storage.delete_objects(source_folder(s))
        if cloud.dry_run:
            cloud.report(f"{s.place}: nothing of {s.name} would be left")
            return
        found = take_inventory(cloud, images=not keep_images, sources=bool(found.sources))
        if found.is_empty:
            _forget(cloud, found, keep_images=keep_images)
            checked = " of what could be checked" if found.unchecked else ""
            cloud.report(f"{s.place}: nothing of {s.name} is left{checked}, no more hourly costs")
            return
    left = "; ".join(line.strip() for line in _describe(s, found)[1:])
    raise UserError(f"not everything is deleted in {s.place}: {left}", "run the same command again")


def _forget(cloud: CloudClients, found: Inventory, *, keep_images: bool) -> None:
    """Forget a place in which nothing is left, unless it has images or something that could not be checked."""
    s = cloud.settings
    if not (keep_images or found.unchecked or cloud.dry_run):
        places.forget(s.place, s.name, s.api_endpoint)


def _end_jobs(cloud: CloudClients, jobs: Sequence["Job"]) -> None:
    """Cancel jobs, and wait until they have ended; report those that cannot be cancelled, or do not end in time."""
    for job in jobs:
        cloud.report(f"→ cancelling the {job}")
        try:
            cloud.jobs.cancel(job)
        except DeployError as error:
            cloud.report(f"  {error}")
    for job in jobs if not cloud.dry_run else ():
        try:
            ended = cloud.jobs.wait(job)
        except UserError as error:
            cloud.report(f"  {error}")
        else:
            cloud.report(f"  the {job} has ended: {ended.state.lower()}")


def _delete_endpoint(cloud: CloudClients) -> None:
    """Delete the endpoint, with its deployed models and pending operations."""
    vertex = cloud.vertex

    def attempt() -> None:
        state = vertex.endpoint_state()
        if state is None:
            return
        state = _cancel_pending(cloud, state)
        try:
            _undeploy(cloud, state, state.deployed)
            vertex.delete_endpoint()
        except UserError as error:
            # Another command may have deployed a model in between: retry with the new state.
            current = vertex.endpoint_state()
            if current is None or current == state or not (current.deployed or current.pending):
                raise
            raise TransientError(error.message) from None

    cloud.client.retry_transient(attempt)


def _cancel_pending(cloud: CloudClients, state: EndpointState) -> EndpointState:
    """Cancel pending operations and wait for their end: what they deploy would cost unnoticed."""
    _end_operations(cloud, state.pending, "waiting for a pending operation")
    return state if cloud.dry_run else cloud.vertex.endpoint_state() or EndpointState()


def _end_operations(cloud: CloudClients, operations: Sequence[str], action: str) -> None:
    """Cancel operations, and wait for their end."""
    vertex = cloud.vertex
    for operation in operations:
        if cloud.dry_run:
            vertex.cancel_operation(operation)
            continue
        # Errors do not matter: a cancelled operation ends in one, and the state that is fetched
        # afterwards shows what is left.
        wait = functools.partial(vertex.wait, action=action)
        for step in (vertex.cancel_operation, wait):
            try:
                step(operation)
            except DeployError as error:
                cloud.report(f"  {error}")


def _undeploy(cloud: CloudClients, state: EndpointState, chosen: Sequence[DeployedModel]) -> None:
    """Undeploy models, the one with most traffic last: Vertex AI undeploys one with traffic only if it is the last."""
    vertex, ordered = cloud.vertex, sorted(chosen, key=lambda model: state.share(model.id))
    if len(ordered) > 1 and 0 < state.share(ordered[-1].id) < 100:
        vertex.update_endpoint(state.etag, state.labels, {ordered[-1].id: 100})
    for model in ordered:

        def exists(deployed_id: str = model.id) -> bool:
            deployed = (vertex.endpoint_state() or EndpointState()).deployed
            return deployed_id in [other.id for other in deployed]

        _delete(cloud, functools.partial(vertex.undeploy_model, model), exists)


def _delete(cloud: CloudClients, delete: Callable[[], None], exists: Callable[[], object]) -> None:
    """Call `delete` if `exists`, again if the connection breaks."""

    def attempt() -> None:
        if exists():
            delete()

    cloud.client.retry_transient(attempt)
