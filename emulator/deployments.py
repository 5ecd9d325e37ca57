"""The models deployed to endpoints: deployment, undeployment, changes and quotas."""

import threading
from typing import NamedTuple

from google.cloud import aiplatform_v1 as v1
from google.longrunning.operations_pb2 import Operation

from emulator import artifacts, containers, images, machines, operations, previews
from emulator.endpoints import ENDPOINTS, check_split, deployed_ids, find_deployed, mark_changed
from emulator.errors import ApiError, failed_precondition, invalid_argument
from emulator.faults import to_error
from emulator.replica_pool import ReplicaPool
from emulator.resources import Method
from emulator.routes import not_supported
from emulator.state import State, find_model, get_region, now

RESOURCE_FIELDS = {
    "min_replica_count",
    "max_replica_count",
    "required_replica_count",
    "autoscaling_metric_specs",
}
MUTABLE_FIELDS = RESOURCE_FIELDS | {"disable_container_logging"}


def deploy(state: State, request: v1.DeployModelRequest) -> Operation:
    """Start a model's replicas; the endpoint lists the model once all of them are healthy."""
    endpoint = ENDPOINTS.find(state, request.endpoint)
    deployed = v1.DeployedModel(request.deployed_model)
    model = find_model(state, deployed.model)
    if get_region(model.name) != get_region(endpoint.name):
        raise invalid_argument("The model and the endpoint must be in the same region.")
    if model.container_spec.invoke_route_prefix and not endpoint.dedicated_endpoint_enabled:
        raise invalid_argument("A model with invoke_route_prefix needs a dedicated endpoint.")
    present = deployed_ids(endpoint)
    if deployed.id and (deployed.id == "0" or deployed.id in present):
        raise invalid_argument(f"Invalid or taken deployed model ID {deployed.id}.")
    check_split(request.traffic_split, present | {"0"})
    previous = previews.find_replaced(endpoint, deployed, model)
    if previous:
        deployed = previews.prepare_rollout(deployed, previous)
    elif endpoint.network and present:
        raise failed_precondition(
            f"Endpoint {endpoint.name} is peered with a network: it can have one deployed model only."
        )
    _check_resources(deployed, get_region(endpoint.name))
    resources = deployed.dedicated_resources
    with state.lock:
        replaced = (endpoint.name, previous.id if previous else deployed.id)
        _check_quota(state, replaced, resources)
        deployed.id = deployed.id or state.next_id()
        key = (endpoint.name, deployed.id)
        pool = state.pools[key] = ReplicaPool(resources)
    deployed.model, deployed.model_version_id = f"{model.name}@{model.version_id}", model.version_id
    deployed.display_name = deployed.display_name or model.display_name
    deployment = _Deployment(state, endpoint, deployed, model, pool)

    def work(operation: operations.Operation) -> v1.DeployModelResponse:
        try:
            deployment.start(operation.cancelled)
        except BaseException:
            pool.stop()
            del state.pools[key]
            raise
        with state.lock:
            split = dict(request.traffic_split)
            if previous and previous.id in endpoint.traffic_split:
                split = dict(endpoint.traffic_split)
                split["0"] = split.pop(previous.id)
            deployment.list_model(split, replaced=previous.id if previous else "")
        if previous:
            state.pools.pop((endpoint.name, previous.id)).stop()
        return v1.DeployModelResponse(deployed_model=deployed)

    return operations.start(state, endpoint.name, "DeployModel", work)


class _Deployment(NamedTuple):
    """A model on its way to an endpoint."""

    state: State
    endpoint: v1.Endpoint
    deployed: v1.DeployedModel
    model: v1.Model
    pool: ReplicaPool

    def start(self, cancelled: threading.Event) -> None:
        """Start the replicas; raise ApiError if they do not become healthy."""
        config, resources = self.state.config, self.deployed.dedicated_resources
        images.pull_image(config, self.model.container_spec.image_uri)
        uri = artifacts.copy_artifacts(config, self.model)
        env = containers.container_env(self.endpoint, self.deployed, self.model, uri)
        template = containers.Replica(config, self.model, env, resources.machine_spec)
        scale_to_zero = previews.read_scale_to_zero(resources, config.max_idle_s)
        self.pool.start(template, previews.initial_count(resources), scale_to_zero, cancelled)
        if fault := self.state.faults.take("DeployModel.midway", "failing"):
            raise to_error(fault, self.endpoint.name)

    def list_model(self, split: dict[str, int], *, replaced: str) -> None:
        """List the model in its endpoint, in the place of the model with the ID `replaced`, if any."""
        endpoint, deployed = self.endpoint, self.deployed
        deployed.create_time = now()
        if endpoint.private_service_connect_config.enable_private_service_connect:
            region, name = get_region(endpoint.name), endpoint.name.rsplit("/", 1)[-1]
            endpoint.private_service_connect_config.service_attachment = (
                f"projects/emulator-tp/regions/{region}/serviceAttachments/{name}"
            )
        if endpoint.network:
            replica = self.pool.replicas[0]
            address = f"http://{containers.HOST}:{replica.port}"
            deployed.private_endpoints = {
                "predict_http_uri": f"{address}{replica.env['AIP_PREDICT_ROUTE']}",
                "health_http_uri": f"{address}{replica.env['AIP_HEALTH_ROUTE']}",
            }
        others = [each for each in endpoint.deployed_models if each.id != replaced]
        endpoint.deployed_models = [*others, deployed]
        if "0" in split:
            split[deployed.id] = split.pop("0")
        if split:
            endpoint.traffic_split = split
        mark_changed(self.state, endpoint)


def _check_resources(deployed: v1.DeployedModel, region: str) -> None:
    """Raise ApiError for machines or replica counts that do not exist; fill in the defaults."""
    if "shared_resources" in deployed:
        raise not_supported("shared_resources (a DeploymentResourcePool)")
    if "dedicated_resources" not in deployed:
        raise invalid_argument("Models of custom containers need dedicated_resources.")
    resources = deployed.dedicated_resources
    resources.machine_spec.machine_type = resources.machine_spec.machine_type or machines.DEFAULT
    machines.check(resources.machine_spec, region)
    resources.max_replica_count = resources.max_replica_count or max(
        resources.min_replica_count, previews.initial_count(resources)
    )
    if resources.max_replica_count < previews.initial_count(resources):
        raise invalid_argument("max_replica_count must not be less than min_replica_count.")
    if resources.required_replica_count > resources.min_replica_count:
        raise invalid_argument("required_replica_count must not be more than min_replica_count.")


def undeploy(state: State, request: v1.UndeployModelRequest) -> Operation:
    """Start to stop a deployed model that has no traffic, or is the only one."""
    endpoint = ENDPOINTS.find(state, request.endpoint)
    target = find_deployed(endpoint, request.deployed_model_id)
    others = deployed_ids(endpoint) - {target.id}
    check_split(request.traffic_split, others | {target.id})
    split = request.traffic_split or endpoint.traffic_split
    if others and (percent := split.get(target.id, 0)):
        raise failed_precondition(
            f"Deployed model {target.id} still receives {percent} % of the traffic. Update the traffic split first."
        )

    def work(_: operations.Operation) -> v1.UndeployModelResponse:
        with state.lock:
            endpoint.deployed_models = [m for m in endpoint.deployed_models if m.id != target.id]
            split = dict(request.traffic_split or endpoint.traffic_split)
            split.pop(target.id, None)
            endpoint.traffic_split = split if endpoint.deployed_models else {}
            mark_changed(state, endpoint)
            pool = state.pools.get((endpoint.name, target.id))
        if pool:
            pool.stop()
            del state.pools[endpoint.name, target.id]
        return v1.UndeployModelResponse()

    return operations.start(state, endpoint.name, "UndeployModel", work)


def mutate(state: State, request: v1.MutateDeployedModelRequest) -> Operation:
    """Start to change the replica counts or the autoscaling metrics of a deployed model."""
    endpoint = ENDPOINTS.find(state, request.endpoint)
    target = find_deployed(endpoint, request.deployed_model.id)
    new = request.deployed_model.dedicated_resources
    paths = (path.removeprefix("deployed_model.") for path in request.update_mask.paths)
    fields = {path.removeprefix("dedicated_resources.") for path in paths}
    if unknown := fields - MUTABLE_FIELDS:
        raise invalid_argument(f"Field {min(unknown)} cannot be mutated.")
    resources = v1.DedicatedResources(target.dedicated_resources)
    for field in fields & RESOURCE_FIELDS:
        setattr(resources, field, getattr(new, field))
    if resources.min_replica_count < 1 and not previews.initial_count(resources):
        raise invalid_argument("min_replica_count must be 1 or more.")
    resources.max_replica_count = max(resources.max_replica_count, resources.min_replica_count)
    key = (endpoint.name, target.id)
    with state.lock:
        _check_quota(state, key, resources)
        state.pools[key].resources = resources

    def work(operation: operations.Operation) -> v1.MutateDeployedModelResponse:
        with state.lock:
            target.dedicated_resources = resources
            if "disable_container_logging" in fields:
                target.disable_container_logging = request.deployed_model.disable_container_logging
            others = [other for other in endpoint.deployed_models if other.id != target.id]
            endpoint.deployed_models = [*others, target]
            mark_changed(state, endpoint)
            pool = state.pools[key]
        pool.resize(previews.initial_count(resources), operation.cancelled)
        return v1.MutateDeployedModelResponse(deployed_model=target)

    return operations.start(state, endpoint.name, "MutateDeployedModel", work)


def _check_quota(state: State, key: tuple[str, str], resources: v1.DedicatedResources) -> None:
    """Raise ApiError if a deployment, new or changed, exceeds the project's quotas in the region.

    The maximum number of replicas counts, and so do models that are being deployed.
    """
    location = key[0].rsplit("/", 1)[0] + "/"
    pools = [
        p for other, p in state.pools.items() if other[0].startswith(location) and other != key
    ]
    all_resources = [*(pool.resources for pool in pools), resources]
    exceeded = []
    cores = sum(
        machines.count_cores(r.machine_spec.machine_type) * r.max_replica_count
        for r in all_resources
    )
    if cores > state.config.cpu_quota:
        exceeded.append("CustomModelServingCPUsPerProjectPerRegion")
    accelerator = resources.machine_spec.accelerator_type
    same = [r for r in all_resources if r.machine_spec.accelerator_type == accelerator]
    count = sum(r.machine_spec.accelerator_count * r.max_replica_count for r in same)
    if resources.machine_spec.accelerator_count and count > state.config.accelerator_quota:
        exceeded.append(machines.quota_name(v1.AcceleratorType(accelerator).name))
    if exceeded:
        message = f"The following quotas are exceeded: {', '.join(exceeded)}"
        raise ApiError("RESOURCE_EXHAUSTED", message)


METHODS: dict[str, Method] = {
    "DeployModel": deploy,
    "UndeployModel": undeploy,
    "MutateDeployedModel": mutate,
}
