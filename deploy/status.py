"""The command status: what is deployed, with its traffic, age and cost."""

from collections.abc import Iterator
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Any

from deploy.clients import CloudClients
from deploy.cost import BUILD_USD_PER_MINUTE, estimate_cost
from deploy.inventory import Inventory, take_inventories
from deploy.plan import DeployedModel, EndpointState, Machine
from deploy.quota import describe_usage

if TYPE_CHECKING:
    from deploy.gcp.jobs import Job

Running = list[tuple[Machine, int]]
"""Machines and their numbers."""


def status(cloud: CloudClients, *, all_regions: bool) -> None:
    """Report everything that runs in each place where the name was deployed, and pending operations."""
    running: Running = []
    for each, found in take_inventories(cloud, all_regions=all_regions, images=False):
        _report_place(each, found, running)
    cost = f"{estimate_cost(running)}" if running else "none, nothing is running"
    cloud.report(f"  cost: {cost}")


def _report_place(cloud: CloudClients, found: Inventory, running: Running) -> None:
    """Report one place, and add the machines that run there."""
    s = cloud.settings
    cloud.report(f"{s.place}")
    state = found.endpoint
    if state is None:
        cloud.report(f"  endpoint {s.name}: does not exist (make deploy-endpoint creates it)")
    else:
        cloud.report(f"  endpoint {s.name}: {len(state.deployed)} deployed")
        commits = {each.version_id: each.labels.get("git-commit", "") for each in found.versions}
        for model in state.deployed:
            commit = format_commit(commits.get(model.version, ""))
            suffix = f", commit {commit}" if commit else ""
            cloud.report(f"    {state.share(model.id):3} %  {_describe(model)}{suffix}")
            running.append((model.machine, model.replicas.minimum))
        for line in describe_usage(state.deployed):
            cloud.report(f"    {line}")
        _report_advice(cloud, state)
    for operation in state.pending if state else ():
        operation_id = operation.rpartition("/")[2]
        cloud.report(f"  pending: operation {operation_id} (a model that it deploys will cost)")
    for operation in found.uploads:
        cloud.report(f"  pending: upload of a version, operation {operation.rpartition('/')[2]}")
    _report_other_endpoints(cloud, running)
    for line in _describe_jobs(found, running):
        cloud.report(f"  {line}")
    if found.function:
        cloud.report(f"  function {s.name}: deployed (it costs while it answers)")
    newest = (
        f", newest version {max(int(each.version_id) for each in found.versions)}"
        if found.versions
        else ""
    )
    cloud.report(f"  model {s.name}: {len(found.versions)} uploaded{newest}")
    for line in found.unchecked:
        cloud.report(f"  {line}")


def _report_other_endpoints(cloud: CloudClients, running: Running) -> None:
    for endpoint_id, endpoint in cloud.vertex.list_endpoints().items():
        if endpoint.deployed and endpoint_id != cloud.settings.name:
            cloud.report(f"  another endpoint, {endpoint_id}:")
            for model in endpoint.deployed:
                share = endpoint.share(model.id)
                cloud.report(f"    {share:3} %  {model.model_name} {_describe(model)}")
                running.append((model.machine, model.replicas.minimum))


def _describe_jobs(found: Inventory, running: Running) -> Iterator[str]:
    """Yield a line for each job and schedule, and add the machines of batch prediction jobs."""
    for job in found.jobs:
        yield f"{job}: {job.state.lower()}, {_age(job.created)}{_describe_job(job, running)}"
    for name in found.schedules:
        yield f"schedule {name.rpartition('/')[2]}: starts pipeline jobs, which cost while they run"


def _describe_job(job: "Job", running: Running) -> str:
    if job.kind == "build":
        command = job.content.get("substitutions", {}).get("_DEPLOY", "no")
        then = f", then: {command}" if command != "no" else ""
        return f", ${BUILD_USD_PER_MINUTE} a minute{then}"
    if job.kind == "batch prediction job":
        resources: dict[str, Any] = job.content.get("dedicatedResources", {})
        spec, count = resources.get("machineSpec", {}), resources.get("startingReplicaCount", 1)
        machine = Machine(
            spec.get("machineType", ""),
            spec.get("acceleratorType", ""),
            spec.get("acceleratorCount", 0),
            gpu_partition_size=spec.get("gpuPartitionSize", ""),
        )
        running.append((machine, count))
        return f", {count} x {machine.type}"
    return ""


def format_commit(commit: str) -> str:
    """Return a commit's first digits, and whether its sources were changed."""
    dirty = " with changed files" if commit.endswith("-dirty") else ""
    return f"{commit[:7]}{dirty}" if commit else ""


def _report_advice(cloud: CloudClients, state: EndpointState) -> None:
    if goal := state.goal:
        cloud.report(
            f"    not finished: {goal.verb} of version {goal.version}; run it again, or: make rollback"
        )
    unfinished = goal.version if goal else ""
    if idle := [
        model
        for model in state.deployed
        if not state.share(model.id) and model.version != unfinished
    ]:
        cost = estimate_cost((model.machine, model.replicas.minimum) for model in idle)
        versions = ", ".join(model.version for model in idle)
        cloud.report(
            f"    version {versions} has no traffic: it is kept for a fast rollback, at {cost.per_hour}"
        )
        cloud.report("      (to end it: make undeploy ARGS=--idle)")
    if state.deployed and not any(state.share(model.id) for model in state.deployed):
        cloud.report("    no version has traffic; to change that: make deploy-endpoint")


def _describe(deployed: DeployedModel) -> str:
    machine, replicas = deployed.machine, deployed.replicas
    count, accelerator = machine.accelerator_count, machine.accelerator_type
    amount = f"{machine.gpu_partition_size} of" if machine.gpu_partition_size else count
    extra = f" + {amount} {accelerator}" if count else ""
    size = f"{replicas.minimum} to {replicas.maximum} x {machine.type}{extra}"
    hour = estimate_cost([(machine, replicas.minimum)]).per_hour
    return (
        f"version {deployed.version}, deployed model {deployed.id}, {size}, {_age(deployed.since)}, "
        f"{hour}"
    )


def _age(timestamp: str) -> str:
    """Return the time since an ISO 8601 timestamp, such as "3 hours old"."""
    if not timestamp:
        return "new"
    minutes = (datetime.now(UTC) - datetime.fromisoformat(timestamp)).total_seconds() / 60
    for unit_minutes, name in ((60 * 24, "days"), (60, "hours")):
        if minutes >= 2 * unit_minutes:
            return f"{minutes / unit_minutes:.0f} {name} old"
    return f"{minutes:.0f} min old" if minutes >= 1 else "new"
