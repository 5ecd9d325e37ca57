"""Endpoints: what is deployed to them, and at which traffic."""

import re
from collections.abc import Mapping

from google.cloud import aiplatform_v1 as v1
from google.longrunning.operations_pb2 import Operation

from emulator import artifacts, containers, operations
from emulator.errors import ApiError, failed_precondition, invalid_argument
from emulator.faults import to_error
from emulator.models import check_labels
from emulator.resources import Kind
from emulator.state import State, canonical_name, find_model, location, now

ID = re.compile(r"[a-z]([a-z0-9-]{0,61}[a-z0-9])?|[1-9][0-9]{0,8}")
MUTABLE = {
    "min_replica_count",
    "max_replica_count",
    "required_replica_count",
    "autoscaling_metric_specs",
}
UPDATABLE = {"display_name", "description", "labels", "traffic_split"}


class Endpoints(Kind):
    """Endpoints, which are deleted only if nothing is deployed to them."""

    def delete(self, state: State, request: v1.DeleteEndpointRequest) -> Operation:
        """Delete an endpoint."""
        endpoint = self.find(state, request.name)
        begun = [number for name, number in state.pools if name == endpoint.name]
        busy = dict.fromkeys([*(deployed.id for deployed in endpoint.deployed_models), *begun])
        if busy:
            what = f"deployed or being-deployed DeployedModel(s) with ID(s): {', '.join(busy)}"
            raise failed_precondition(f"Endpoint {endpoint.name} has {what}.")
        return super().delete(state, request)


KIND = Endpoints("Endpoint", lambda state: state.endpoints, v1.ListEndpointsResponse)


def create(state: State, request: v1.CreateEndpointRequest) -> Operation:
    """Begin an endpoint."""
    parent, endpoint = canonical_name(request.parent), v1.Endpoint(request.endpoint)
    if request.endpoint_id and not ID.fullmatch(request.endpoint_id):
        raise invalid_argument(f"Invalid endpoint_id {request.endpoint_id}.")
    if endpoint.deployed_models:
        raise invalid_argument("deployed_models is output only.")
    check_labels(endpoint.labels)
    identity = request.endpoint_id or state.next_id()
    name = f"{parent}/endpoints/{identity}"
    if name in state.endpoints:
        raise ApiError(
            "ALREADY_EXISTS", f"Endpoint with ID {identity} already exists in {request.parent}."
        )

    def work(_: operations.Operation) -> v1.Endpoint:
        endpoint.name, endpoint.etag = name, state.next_id()
        endpoint.create_time = endpoint.update_time = now()
        if endpoint.dedicated_endpoint_enabled:
            endpoint.dedicated_endpoint_dns = state.dedicated_host
        with state.lock:
            if name in state.endpoints:
                raise ApiError("ALREADY_EXISTS", f"Endpoint with ID {identity} already exists.")
            state.endpoints[name] = endpoint
        return endpoint

    return operations.start(state, name, "CreateEndpoint", work)


def update(state: State, request: v1.UpdateEndpointRequest) -> v1.Endpoint:
    """Change what the mask names, all of it or nothing."""
    with state.lock:
        endpoint, wanted = KIND.find(state, request.endpoint.name), request.endpoint
        if wanted.etag and wanted.etag != endpoint.etag:
            changed = "is not the current one: somebody changed it meanwhile"
            raise ApiError("ABORTED", f"The etag {wanted.etag} of {endpoint.name} {changed}.")
        for path in request.update_mask.paths:
            if path.partition(".")[0] not in UPDATABLE:
                raise invalid_argument(f"Field {path} cannot be updated.")
        if "traffic_split" in request.update_mask.paths:
            deployed = {each.id for each in endpoint.deployed_models}
            _check_split(wanted.traffic_split, deployed)
        check_labels(wanted.labels)
        for path in request.update_mask.paths:
            setattr(endpoint, path.partition(".")[0], getattr(wanted, path.partition(".")[0]))
        return _changed(state, endpoint)


def deploy(state: State, request: v1.DeployModelRequest) -> Operation:
    """Begin to run a model's containers; the endpoint lists it once all of them are healthy."""
    endpoint, deployed = (
        KIND.find(state, request.endpoint),
        v1.DeployedModel(request.deployed_model),
    )
    model = find_model(state, deployed.model)
    if location(model.name) != location(endpoint.name):
        raise invalid_argument("The model and the endpoint must be in the same region.")
    if "dedicated_resources" not in deployed:
        raise invalid_argument("Models of custom containers need dedicated_resources.")
    resources = deployed.dedicated_resources
    resources.max_replica_count = resources.max_replica_count or resources.min_replica_count
    if resources.max_replica_count < resources.min_replica_count:
        raise invalid_argument("max_replica_count must not be less than min_replica_count.")
    present = {other.id for other in endpoint.deployed_models}
    _check_split(request.traffic_split, present | {"0"})
    if deployed.id and (not re.fullmatch("[0-9]{1,10}", deployed.id) or deployed.id in present):
        raise invalid_argument(f"Invalid or taken deployed model ID {deployed.id}.")
    with state.lock:
        _within_quota(state, endpoint, resources)
        deployed.id = deployed.id or state.next_id()
        key = (endpoint.name, deployed.id)
        pool = state.pools[key] = containers.ReplicaPool(resources)
    deployed.model, deployed.model_version_id = f"{model.name}@{model.version_id}", model.version_id
    deployed.display_name = deployed.display_name or model.display_name

    def work(operation: operations.Operation) -> v1.DeployModelResponse:
        try:
            containers.pull_image(state.config, model.container_spec.image_uri)
            storage = artifacts.copy_artifacts(state.config, model)
            env = containers.container_env(endpoint, deployed, model, storage)
            first = containers.Replica(state.config, model, env, resources.machine_spec)
            pool.resize(resources.min_replica_count, first, operation.cancelled)
            if fault := state.faults.take("DeployModel.midway", "failing"):
                raise to_error(fault, endpoint.name)  # noqa: TRY301  as if a replica had raised it
        except BaseException:
            pool.stop()
            del state.pools[key]
            raise
        with state.lock:
            deployed.create_time = now()
            endpoint.deployed_models = [*endpoint.deployed_models, deployed]
            if split := dict(request.traffic_split):
                if "0" in split:
                    split[deployed.id] = split.pop("0")
                endpoint.traffic_split = split
            _changed(state, endpoint)
        return v1.DeployModelResponse(deployed_model=deployed)

    return operations.start(state, endpoint.name, "DeployModel", work)


def undeploy(state: State, request: v1.UndeployModelRequest) -> Operation:
    """Begin to end a deployed model that has no traffic, or is the last one."""
    endpoint = KIND.find(state, request.endpoint)
    target = _deployed(endpoint, request.deployed_model_id)
    others = {other.id for other in endpoint.deployed_models} - {target.id}
    _check_split(request.traffic_split, others | {target.id})
    split = request.traffic_split or endpoint.traffic_split
    if others and split.get(target.id, 0):
        share = split[target.id]
        message = f"Deployed model {target.id} still receives {share} % of the traffic. Update the traffic split first."
        raise failed_precondition(message)

    def work(_: operations.Operation) -> v1.UndeployModelResponse:
        with state.lock:
            endpoint.deployed_models = [m for m in endpoint.deployed_models if m.id != target.id]
            kept = dict(request.traffic_split or endpoint.traffic_split)
            kept.pop(target.id, None)
            endpoint.traffic_split = kept if endpoint.deployed_models else {}
            _changed(state, endpoint)
            pool = state.pools.get((endpoint.name, target.id))
        if pool:
            pool.stop()
            del state.pools[endpoint.name, target.id]
        return v1.UndeployModelResponse()

    return operations.start(state, endpoint.name, "UndeployModel", work)


def mutate(state: State, request: v1.MutateDeployedModelRequest) -> Operation:
    """Begin to change a deployed model's number of replicas or what they are scaled by."""
    endpoint = KIND.find(state, request.endpoint)
    target = _deployed(endpoint, request.deployed_model.id)
    wanted = request.deployed_model.dedicated_resources
    names = {path.removeprefix("dedicated_resources.") for path in request.update_mask.paths}
    if unknown := names - MUTABLE:
        raise invalid_argument(f"Field {min(unknown)} cannot be mutated.")

    def work(operation: operations.Operation) -> v1.MutateDeployedModelResponse:
        with state.lock:
            resources = target.dedicated_resources
            for name in names:
                setattr(resources, name, getattr(wanted, name))
            least = resources.min_replica_count
            resources.max_replica_count = max(resources.max_replica_count, least)
            others = [each for each in endpoint.deployed_models if each.id != target.id]
            endpoint.deployed_models = [*others, target]
            _changed(state, endpoint)
            pool = state.pools[endpoint.name, target.id]
        pool.resize(resources.min_replica_count, pool.replicas[0], operation.cancelled)
        return v1.MutateDeployedModelResponse(deployed_model=target)

    return operations.start(state, endpoint.name, "MutateDeployedModel", work)


def _check_split(split: Mapping[str, int], deployed: set[str]) -> None:
    """Refuse a split that does not sum to 100, or names what is not deployed."""
    if not split:
        return
    if sum(split.values()) != 100 or min(split.values()) < 0:
        raise invalid_argument(f"Traffic percentages must sum to 100, but they are {dict(split)}.")
    if unknown := set(split) - deployed:
        raise invalid_argument(
            f"Traffic split names deployed models that do not exist: {', '.join(sorted(unknown))}."
        )


def _deployed(endpoint: v1.Endpoint, wanted: str) -> v1.DeployedModel:
    for deployed in endpoint.deployed_models:
        if deployed.id == wanted:
            return deployed
    raise ApiError("NOT_FOUND", f"DeployedModel {wanted} is not found in {endpoint.name}.")


def _within_quota(state: State, endpoint: v1.Endpoint, resources: v1.DedicatedResources) -> None:
    """Refuse what would take a region beyond the project's quota, with what is being deployed counted."""
    where = endpoint.name.rsplit("/", 1)[0]
    wanted = [pool.wanted for (name, _), pool in state.pools.items() if name.startswith(where)]
    wanted.append(resources)
    exceeded = []
    cores = sum(
        containers.count_cores(each.machine_spec) * each.min_replica_count for each in wanted
    )
    if cores > state.config.cpus:
        exceeded.append("CustomModelServingCPUsPerProjectPerRegion")
    kind = resources.machine_spec.accelerator_type
    same = [each for each in wanted if each.machine_spec.accelerator_type == kind]
    count = sum(each.machine_spec.accelerator_count * each.min_replica_count for each in same)
    if resources.machine_spec.accelerator_count and count > state.config.accelerators:
        name = v1.AcceleratorType(kind).name.partition("_")[2].title().replace("_", "")
        exceeded.append(f"CustomModelServing{name}GPUsPerProjectPerRegion")
    if exceeded:
        message = f"The following quotas are exceeded: {', '.join(exceeded)}"
        raise ApiError("RESOURCE_EXHAUSTED", message)


def _changed(state: State, endpoint: v1.Endpoint) -> v1.Endpoint:
    endpoint.update_time, endpoint.etag = now(), state.next_id()
    return endpoint


METHODS = {
    **KIND.methods(),
    "CreateEndpoint": create,
    "UpdateEndpoint": update,
    "DeployModel": deploy,
    "UndeployModel": undeploy,
    "MutateDeployedModel": mutate,
}
