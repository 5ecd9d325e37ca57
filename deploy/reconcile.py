"""Carries out a goal: fetch the endpoint's state, take one step, fetch the state again."""

from deploy import plan
from deploy.clients import CloudClients
from deploy.endpoint_config import changed_parts, check_immutable, from_settings
from deploy.errors import UserError
from deploy.plan import EndpointState, Goal

ALL_TRAFFIC = 100
DRY_RUN = "dry run"
"""The etag of an endpoint that a dry run did not create."""


def get_or_create_endpoint(cloud: CloudClients) -> EndpointState:
    """Return the endpoint's state; create the endpoint if it does not exist."""

    def attempt() -> EndpointState:
        state = cloud.vertex.endpoint_state()
        if state is None:
            cloud.vertex.create_endpoint()
            if cloud.dry_run:
                return EndpointState(etag=DRY_RUN)
            return _fetch_state(cloud)
        if not state.etag and state.pending:
            cloud.vertex.wait(state.pending[0], "waiting for the endpoint's creation")
            return _fetch_state(cloud)
        return state

    state = cloud.client.retry_transient(attempt)
    check_ownership(cloud, state)
    return state


def reconcile(cloud: CloudClients, goal: Goal, state: EndpointState) -> bool:
    """Take steps until the goal is reached; return whether any was needed."""
    machine, replicas = cloud.settings.machine, cloud.settings.replicas
    steps = 0

    def run_next_step() -> bool:
        nonlocal state, steps
        if steps and not cloud.dry_run:
            state = _fetch_state(cloud)
        step = plan.next_step(state, goal, machine, replicas)
        if step is None:
            return False
        steps += 1
        _run_step(cloud, step, state, goal)
        if cloud.dry_run:
            state = plan.apply(state, step, machine, replicas)
        return True

    while cloud.client.retry_transient(run_next_step):
        pass
    return steps > 0


def check_ownership(cloud: CloudClients, state: EndpointState) -> None:
    """Raise UserError if the endpoint also serves another model."""
    name = cloud.settings.name
    if others := sorted({model.model_name for model in state.deployed} - {name, ""}):
        hint = "undeploy that model, or set another name in the model's deploy.toml"
        raise UserError(f"the endpoint {name} also serves another model: {', '.join(others)}", hint)


def check_endpoint(cloud: CloudClients) -> None:
    """Raise UserError if the endpoint exists and cannot be changed to the settings, before anything begins."""
    if current := cloud.vertex.endpoint_config():
        check_immutable(current, from_settings(cloud.settings), cloud.settings.name)


def configure_endpoint(cloud: CloudClients, state: EndpointState) -> EndpointState:
    """Update the endpoint's configuration to the settings, and return its state.

    Raises UserError for a setting that cannot be changed.
    """
    if state.etag == DRY_RUN:
        return state
    expected = from_settings(cloud.settings)

    def attempt() -> list[str]:
        current = cloud.vertex.endpoint_config()
        if current is None:
            raise _deleted_meanwhile()
        check_immutable(current, expected, cloud.settings.name)
        if parts := list(changed_parts(current, expected)):
            cloud.report(f"→ endpoint: {', '.join(parts)}")
            cloud.vertex.configure_endpoint(parts, current, expected)
        return parts

    changed = cloud.client.retry_transient(attempt)
    return _fetch_state(cloud) if changed and not cloud.dry_run else state


def _fetch_state(cloud: CloudClients) -> EndpointState:
    state = cloud.vertex.endpoint_state()
    if state is None:
        raise _deleted_meanwhile()
    return state


def _deleted_meanwhile() -> UserError:
    return UserError("the endpoint was deleted meanwhile", "run the same command again")


def _run_step(cloud: CloudClients, step: plan.Step, state: EndpointState, goal: Goal) -> None:
    vertex = cloud.vertex
    match step:
        case plan.Wait(operation):
            vertex.wait(operation, "waiting for a pending operation")
        case plan.Deploy(version):
            vertex.deploy_model(version, _replaced_id(cloud, state, goal))
        case plan.SetReplicas(deployed_id, replicas):
            vertex.set_replicas(deployed_id, replicas)
        case plan.SetLabels(labels):
            vertex.update_endpoint(state.etag, labels)
        case plan.SetTraffic(split, labels):
            versions = {model.id: model.version for model in state.deployed}
            shares = [f"version {versions[key]} {share} %" for key, share in split.items()]
            cloud.report(f"→ traffic: {', '.join(shares)}")
            vertex.update_endpoint(state.etag, labels, split)
        case plan.Undeploy(deployed_id):
            (model,) = [each for each in state.deployed if each.id == deployed_id]
            vertex.undeploy_model(model)
        case plan.SetDefault(version):
            vertex.set_default_version(version)


def _replaced_id(cloud: CloudClients, state: EndpointState, goal: Goal) -> str:
    """Return the ID of the deployed model whose replicas a rolling deployment replaces; "" without one.

    Only a model with all traffic, on the same machines, can be replaced: the new one takes both over.
    """
    if not cloud.settings.rolling or goal.verb not in ("deploy", "rollback"):
        return ""
    same = [
        model.id
        for model in state.deployed
        if model.machine == cloud.settings.machine and state.share(model.id) == ALL_TRAFFIC
    ]
    return next(iter(same), "")
