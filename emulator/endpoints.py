"""Endpoints, the models deployed to them, and their traffic split."""

import re
from collections.abc import Mapping

from google.cloud import aiplatform_v1 as v1
from google.longrunning.operations_pb2 import Operation

from emulator import artifacts, containers, operations
from emulator.errors import ApiError, failed_precondition, invalid_argument
from emulator.faults import to_error
from emulator.models import check_labels
from emulator.resources import Method, ResourceType
from emulator.state import State, canonical_name, find_model, get_region, now

ID = re.compile(r"[a-z]([a-z0-9-]{0,61}[a-z0-9])?|[1-9][0-9]{0,8}")
MUTABLE_FIELDS = {
    "min_replica_count",
    "max_replica_count",
    "required_replica_count",
    "autoscaling_metric_specs",
}
UPDATABLE_FIELDS = {
    "client_connection_config",
    "description",
    "display_name",
    "labels",
    "traffic_split",
}


class EndpointType(ResourceType):
    """Endpoints. An endpoint can be deleted only if nothing is deployed to it."""

    def delete(self, state: State, request: v1.DeleteEndpointRequest) -> Operation:
        """Start to delete an endpoint."""
        endpoint = self.find(state, request.name)
        being_deployed = [number for name, number in state.pools if name == endpoint.name]
        ids = dict.fromkeys([*(d.id for d in endpoint.deployed_models), *being_deployed])
        if ids:
            what = f"deployed or being-deployed DeployedModel(s) with ID(s): {', '.join(ids)}"
            raise failed_precondition(f"Endpoint {endpoint.name} has {what}.")
        return super().delete(state, request)


ENDPOINTS = EndpointType("Endpoint", lambda state: state.endpoints, v1.ListEndpointsResponse)


def create(state: State, request: v1.CreateEndpointRequest) -> Operation:
    """Start to create an endpoint."""
    parent, endpoint = canonical_name(request.parent), v1.Endpoint(request.endpoint)
    if request.endpoint_id and not ID.fullmatch(request.endpoint_id):
        raise invalid_argument(f"Invalid endpoint_id {request.endpoint_id}.")
    if endpoint.deployed_models:
        raise invalid_argument("deployed_models is output only.")
    check_labels(endpoint.labels)
    endpoint_id = request.endpoint_id or state.next_id()
    name = f"{parent}/endpoints/{endpoint_id}"
    if name in state.endpoints:
        message = f"Endpoint with ID {endpoint_id} already exists in {request.parent}."
        raise ApiError("ALREADY_EXISTS", message)

    def work(_: operations.Operation) -> v1.Endpoint:
        endpoint.name, endpoint.etag = name, state.next_id()
        endpoint.create_time = endpoint.update_time = now()
        if endpoint.dedicated_endpoint_enabled:
            endpoint.dedicated_endpoint_dns = state.dedicated_host
        with state.lock:
            if name in state.endpoints:
                raise ApiError("ALREADY_EXISTS", f"Endpoint with ID {endpoint_id} already exists.")
            state.endpoints[name] = endpoint
        return endpoint

    return operations.start(state, name, "CreateEndpoint", work)


def update(state: State, request: v1.UpdateEndpointRequest) -> v1.Endpoint:
    """Change the fields in the mask: all of them, or none if one of them is invalid."""
    with state.lock:
        endpoint, new = ENDPOINTS.find(state, request.endpoint.name), request.endpoint
        if new.etag and new.etag != endpoint.etag:
            message = f"The etag {new.etag} of {endpoint.name} is out of date: the endpoint was changed since."
            raise ApiError("ABORTED", message)
        fields = [path.partition(".")[0] for path in request.update_mask.paths]
        for path, field in zip(request.update_mask.paths, fields, strict=True):
            if field not in UPDATABLE_FIELDS:
                raise invalid_argument(f"Field {path} cannot be updated.")
        if "traffic_split" in fields:
            _check_split(new.traffic_split, _deployed_ids(endpoint))
        check_labels(new.labels)
        for field in fields:
            setattr(endpoint, field, getattr(new, field))
        return _mark_changed(state, endpoint)


def deploy(state: State, request: v1.DeployModelRequest) -> Operation:
    """Start a model's replicas; the endpoint lists the model once all of them are healthy."""
    endpoint = ENDPOINTS.find(state, request.endpoint)
    deployed = v1.DeployedModel(request.deployed_model)
    model = find_model(state, deployed.model)
    if get_region(model.name) != get_region(endpoint.name):
        raise invalid_argument("The model and the endpoint must be in the same region.")
    if "dedicated_resources" not in deployed:
        raise invalid_argument("Models of custom containers need dedicated_resources.")
    if model.container_spec.invoke_route_prefix and not endpoint.dedicated_endpoint_enabled:
        raise invalid_argument("A model with invoke_route_prefix needs a dedicated endpoint.")
    resources = deployed.dedicated_resources
    resources.max_replica_count = resources.max_replica_count or resources.min_replica_count
    if resources.max_replica_count < resources.min_replica_count:
        raise invalid_argument("max_replica_count must not be less than min_replica_count.")
    present = _deployed_ids(endpoint)
    _check_split(request.traffic_split, present | {"0"})
    if deployed.id and (not re.fullmatch("[0-9]{1,10}", deployed.id) or deployed.id in present):
        raise invalid_argument(f"Invalid or taken deployed model ID {deployed.id}.")
    with state.lock:
        _check_quota(state, endpoint, resources)
        deployed.id = deployed.id or state.next_id()
        key = (endpoint.name, deployed.id)
        pool = state.pools[key] = containers.ReplicaPool(resources)
    deployed.model, deployed.model_version_id = f"{model.name}@{model.version_id}", model.version_id
    deployed.display_name = deployed.display_name or model.display_name

    def work(operation: operations.Operation) -> v1.DeployModelResponse:
        try:
            containers.pull_image(state.config, model.container_spec.image_uri)
            artifacts_uri = artifacts.copy_artifacts(state.config, model)
            env = containers.container_env(endpoint, deployed, model, artifacts_uri)
            template = containers.Replica(state.config, model, env, resources.machine_spec)
            pool.resize(resources.min_replica_count, template, operation.cancelled)
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
            _mark_changed(state, endpoint)
        return v1.DeployModelResponse(deployed_model=deployed)

    return operations.start(state, endpoint.name, "DeployModel", work)


def undeploy(state: State, request: v1.UndeployModelRequest) -> Operation:
    """Start to stop a deployed model that has no traffic, or is the only one."""
    endpoint = ENDPOINTS.find(state, request.endpoint)
    target = find_deployed(endpoint, request.deployed_model_id)
    others = _deployed_ids(endpoint) - {target.id}
    _check_split(request.traffic_split, others | {target.id})
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
            _mark_changed(state, endpoint)
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
    fields = {path.removeprefix("dedicated_resources.") for path in request.update_mask.paths}
    if unknown := fields - MUTABLE_FIELDS:
        raise invalid_argument(f"Field {min(unknown)} cannot be mutated.")

    def work(operation: operations.Operation) -> v1.MutateDeployedModelResponse:
        with state.lock:
            resources = target.dedicated_resources
            for field in fields:
                setattr(resources, field, getattr(new, field))
            minimum = resources.min_replica_count
            resources.max_replica_count = max(resources.max_replica_count, minimum)
            others = [other for other in endpoint.deployed_models if other.id != target.id]
            endpoint.deployed_models = [*others, target]
            _mark_changed(state, endpoint)
            pool = state.pools[endpoint.name, target.id]
        pool.resize(resources.min_replica_count, pool.replicas[0], operation.cancelled)
        return v1.MutateDeployedModelResponse(deployed_model=target)

    return operations.start(state, endpoint.name, "MutateDeployedModel", work)


def _deployed_ids(endpoint: v1.Endpoint) -> set[str]:
    return {deployed.id for deployed in endpoint.deployed_models}


def find_deployed(endpoint: v1.Endpoint, deployed_id: str) -> v1.DeployedModel:
    """Return a deployed model of an endpoint; raise ApiError."""
    for deployed in endpoint.deployed_models:
        if deployed.id == deployed_id:
            return deployed
    raise ApiError("NOT_FOUND", f"DeployedModel {deployed_id} is not found in {endpoint.name}.")


def _check_split(split: Mapping[str, int], deployed_ids: set[str]) -> None:
    """Raise ApiError if a split does not sum to 100 or has the ID of a model that is not deployed."""
    if not split:
        return
    if sum(split.values()) != 100 or min(split.values()) < 0:
        raise invalid_argument(f"Traffic percentages must sum to 100, but they are {dict(split)}.")
    if unknown := set(split) - deployed_ids:
        raise invalid_argument(
            f"Traffic split names deployed models that do not exist: {', '.join(sorted(unknown))}."
        )


def _check_quota(state: State, endpoint: v1.Endpoint, resources: v1.DedicatedResources) -> None:
    """Raise ApiError if a deployment exceeds the project's quotas in the region.

    Models that are being deployed count as well.
    """
    location = endpoint.name.rsplit("/", 1)[0]
    pools = [pool for (name, _), pool in state.pools.items() if name.startswith(location)]
    all_resources = [*(pool.resources for pool in pools), resources]
    exceeded = []
    cores = sum(containers.count_cores(r.machine_spec) * r.min_replica_count for r in all_resources)
    if cores > state.config.cpu_quota:
        exceeded.append("CustomModelServingCPUsPerProjectPerRegion")
    accelerator = resources.machine_spec.accelerator_type
    same = [r for r in all_resources if r.machine_spec.accelerator_type == accelerator]
    count = sum(r.machine_spec.accelerator_count * r.min_replica_count for r in same)
    if resources.machine_spec.accelerator_count and count > state.config.accelerator_quota:
        name = v1.AcceleratorType(accelerator).name.partition("_")[2].title().replace("_", "")
        exceeded.append(f"CustomModelServing{name}GPUsPerProjectPerRegion")
    if exceeded:
        message = f"The following quotas are exceeded: {', '.join(exceeded)}"
        raise ApiError("RESOURCE_EXHAUSTED", message)


def _mark_changed(state: State, endpoint: v1.Endpoint) -> v1.Endpoint:
    endpoint.update_time, endpoint.etag = now(), state.next_id()
    return endpoint


METHODS: dict[str, Method] = {
    **ENDPOINTS.methods(),
    "CreateEndpoint": create,
    "UpdateEndpoint": update,
    "DeployModel": deploy,
    "UndeployModel": undeploy,
    "MutateDeployedModel": mutate,
}
