"""The commands that delete: undeploy, teardown. After an interruption, both can be run again."""

import functools
from collections.abc import Callable, Sequence

from deploy.cli import confirm
from deploy.clients import CloudClients
from deploy.cloud_build import source_folder
from deploy.cost import estimate_cost
from deploy.errors import DeployError, TransientError, UserError
from deploy.plan import DeployedModel, EndpointState
from deploy.reconcile import check_ownership


def undeploy(cloud: CloudClients, *, version: str, idle: bool, yes: bool) -> None:
    """Undeploy all deployed models, or those of a version, or those without traffic (`idle`)."""
    state = cloud.vertex.endpoint_state()
    if state is None or not (state.deployed or state.pending):
        cloud.report("no version is deployed: nothing changed")
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


def teardown(cloud: CloudClients, *, keep_images: bool, yes: bool) -> None:
    """Delete the endpoint, the model, its batch jobs, its images and the sources of its builds."""
    s, vertex = cloud.settings, cloud.vertex
    state, versions, jobs = vertex.endpoint_state(), vertex.versions(), vertex.list_batch_jobs()
    images = not keep_images and cloud.artifacts.has_images()
    sources = [] if keep_images else cloud.storage.list_objects(source_folder(s))
    items = [
        *([f"the endpoint {s.name}"] if state else []),
        *_describe(state or EndpointState()),
        *(f"the batch prediction job {job.name.rpartition('/')[2]}" for job in jobs),
        *([f"the model {s.name} and its versions ({len(versions)})"] if versions else []),
        *([f"the images {s.image_name}"] if images else []),
        *([f"the build sources ({len(sources)}) in {source_folder(s)}"] if sources else []),
    ]
    check_ownership(cloud, state or EndpointState())
    if not items:
        location = f"{s.project}, {s.region}"
        cloud.report(f"no resources of {s.name} to delete in {location}: nothing changed")
        return
    if state and state.deployed:
        cost = estimate_cost((model.machine, model.replicas.minimum) for model in state.deployed)
        cloud.report(f"current cost: {cost}")
    confirm(s.name, items, yes=yes or cloud.dry_run)
    _delete_endpoint(cloud)
    for job in jobs:
        vertex.cancel_batch_job(job.name)
    if versions:
        _delete(cloud, vertex.delete_model, vertex.versions)
    if images:
        _delete(cloud, cloud.artifacts.delete_images, cloud.artifacts.has_images)
    if sources:
        cloud.storage.delete_objects(source_folder(s))
    verb = "would be" if cloud.dry_run else "is"
    cloud.report(f"all of this {verb} deleted: no more hourly costs")


def _describe(state: EndpointState) -> list[str]:
    """Return a line for each deployed model, and one for pending operations."""
    lines = [
        f"  version {model.version}, {model.replicas.minimum} x {model.machine.type}, "
        f"{state.share(model.id)} % of traffic"
        for model in state.deployed
    ]
    if state.pending:
        lines.append(f"  {len(state.pending)} pending operations: they are cancelled or waited for")
    return lines


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
    vertex = cloud.vertex
    for operation in state.pending:
        if cloud.dry_run:
            vertex.cancel_operation(operation)
            continue
        # Errors do not matter: a cancelled operation ends in one, and the state that is fetched
        # afterwards shows what is left.
        wait = functools.partial(vertex.wait, action="waiting for a pending operation")
        for step in (vertex.cancel_operation, wait):
            try:
                step(operation)
            except DeployError as error:
                cloud.report(f"  {error}")
    return state if cloud.dry_run else vertex.endpoint_state() or EndpointState()


def _undeploy(cloud: CloudClients, state: EndpointState, chosen: Sequence[DeployedModel]) -> None:
    """Undeploy models, the one with most traffic last: Vertex AI undeploys one with traffic only if it is the last."""
    vertex, ordered = cloud.vertex, sorted(chosen, key=lambda model: state.share(model.id))
    if len(ordered) > 1 and 0 < state.share(ordered[-1].id) < 100:
        vertex.update_endpoint(state.etag, state.labels, {ordered[-1].id: 100})
    for model in ordered:

        def exists(deployed_id: str = model.id) -> bool:
            deployed = (vertex.endpoint_state() or EndpointState()).deployed
            return deployed_id in [other.id for other in deployed]

        _delete(cloud, functools.partial(vertex.undeploy_model, model.id), exists)


def _delete(cloud: CloudClients, delete: Callable[[], None], exists: Callable[[], object]) -> None:
    """Call `delete` if `exists`, again if the connection breaks."""

    def attempt() -> None:
        if exists():
            delete()

    cloud.client.retry_transient(attempt)
