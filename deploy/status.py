"""The command status: what is deployed, with its traffic, age and cost."""

from datetime import UTC, datetime

from deploy.clients import CloudClients
from deploy.cost import estimate_cost
from deploy.plan import DeployedModel, EndpointState, Machine


def status(cloud: CloudClients) -> None:
    """Report everything in the region that runs, and pending operations."""
    s, vertex = cloud.settings, cloud.vertex
    state = vertex.endpoint_state()
    versions = {version.version_id: version for version in vertex.versions()}
    running: list[tuple[Machine, int]] = []
    cloud.report(f"{s.project}, {s.region}")
    if state is None:
        cloud.report(f"  endpoint {s.name}: does not exist (make deploy-endpoint creates it)")
    else:
        cloud.report(f"  endpoint {s.name}: {len(state.deployed)} deployed")
        for model in state.deployed:
            version = versions.get(model.version)
            commit = version.labels.get("git-commit", "")[:7] if version else ""
            suffix = f", commit {commit}" if commit else ""
            cloud.report(f"    {state.share(model.id):3} %  {_describe(model)}{suffix}")
            running.append((model.machine, model.replicas.minimum))
        _report_advice(cloud, state)
    for operation in state.pending if state else vertex.pending_operations(s.endpoint):
        operation_id = operation.rpartition("/")[2]
        cloud.report(f"  pending: operation {operation_id} (a model that it deploys will cost)")
    for endpoint_id, endpoint in vertex.list_endpoints().items():
        if endpoint.deployed and endpoint_id != s.name:
            cloud.report(f"  another endpoint, {endpoint_id}:")
            for model in endpoint.deployed:
                share = endpoint.share(model.id)
                cloud.report(f"    {share:3} %  {model.model_name} {_describe(model)}")
                running.append((model.machine, model.replicas.minimum))
    for job in vertex.list_batch_jobs():
        resources = job.dedicated_resources
        machine, count = resources.machine_spec.machine_type, resources.starting_replica_count
        age = _age(job.create_time.isoformat() if job.create_time else "")
        job_id, job_state = job.name.rpartition("/")[2], vertex.job_state(job).lower()
        cloud.report(f"  batch prediction job {job_id}: {job_state}, {count} x {machine}, {age}")
        running.append((Machine(machine), count))
    newest = f", newest version {max(versions, key=int)}" if versions else ""
    cloud.report(f"  model {s.name}: {len(versions)} uploaded{newest}")
    cloud.report(
        f"  cost: {estimate_cost(running)}" if running else "  cost: none, nothing is running"
    )


def _report_advice(cloud: CloudClients, state: EndpointState) -> None:
    if goal := state.goal:
        cloud.report(
            f"    not finished: {goal.verb} of version {goal.version}; run it again, or: make rollback"
        )
    if idle := [model for model in state.deployed if not state.share(model.id)]:
        hour = estimate_cost((model.machine, model.replicas.minimum) for model in idle).usd_per_hour
        versions = ", ".join(model.version for model in idle)
        cloud.report(
            f"    version {versions} has no traffic: it is kept for a fast rollback, at ${hour:.2f} an hour"
        )
        cloud.report("      (to end it: make undeploy ARGS=--idle)")
    if state.deployed and not any(state.share(model.id) for model in state.deployed):
        cloud.report("    no version has traffic; to change that: make deploy-endpoint")


def _describe(deployed: DeployedModel) -> str:
    machine, replicas = deployed.machine, deployed.replicas
    count, accelerator = machine.accelerator_count, machine.accelerator_type
    extra = f" + {count} {accelerator}" if count else ""
    size = f"{replicas.minimum} to {replicas.maximum} x {machine.type}{extra}"
    hour = estimate_cost([(machine, replicas.minimum)]).usd_per_hour
    return (
        f"version {deployed.version}, deployed model {deployed.id}, {size}, {_age(deployed.since)}, "
        f"${hour:.2f} an hour"
    )


def _age(timestamp: str) -> str:
    """Return the time since an ISO 8601 timestamp, such as "3 hours old"."""
    if not timestamp:
        return "new"
    minutes = (datetime.now(UTC) - datetime.fromisoformat(timestamp)).total_seconds() / 60
    for unit_minutes, name in ((60 * 24, "days"), (60, "hours")):
        if minutes >= 2 * unit_minutes:
            return f"{minutes / unit_minutes:.0f} {name} old"
    return f"{max(minutes, 0):.0f} min old"
