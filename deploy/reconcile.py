"""Carries out a goal: fetch the endpoint's state, take one step, fetch the state again."""

from deploy import plan
from deploy.clients import CloudClients
from deploy.errors import UserError
from deploy.plan import EndpointState, Goal


def get_or_create_endpoint(cloud: CloudClients) -> EndpointState:
    """Return the endpoint's state; create the endpoint if it does not exist."""

    def attempt() -> EndpointState:
        state = cloud.vertex.endpoint_state()
        if state is None:
            cloud.vertex.create_endpoint()
            if cloud.dry_run:
                return EndpointState(etag="dry run", dedicated=cloud.settings.dedicated)
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
        _run_step(cloud, step, state)
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


def check_endpoint_type(cloud: CloudClients, state: EndpointState) -> None:
    """Raise UserError if the endpoint is shared and the settings are for a dedicated one, or vice versa."""
    expected = cloud.settings.dedicated
    if state.dedicated != expected:
        raise UserError(
            f"{cloud.settings.name} is a {'dedicated' if state.dedicated else 'shared'} endpoint, "
            f"but dedicated = {str(expected).lower()} is set",
            f"set dedicated = {str(state.dedicated).lower()} or another name in the model's deploy.toml, "
            "or run make teardown first: the type of an endpoint cannot be changed",
        )


def _fetch_state(cloud: CloudClients) -> EndpointState:
    state = cloud.vertex.endpoint_state()
    if state is None:
        raise UserError("the endpoint was deleted meanwhile", "run the same command again")
    return state


def _run_step(cloud: CloudClients, step: plan.Step, state: EndpointState) -> None:
    vertex = cloud.vertex
    match step:
        case plan.Wait(operation):
            vertex.wait(operation, "waiting for a pending operation")
        case plan.Deploy(version):
            vertex.deploy_model(version)
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
