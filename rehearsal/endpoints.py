"""Endpoints: what is deployed to them, and at which traffic."""

import re

from google.cloud import aiplatform_v1 as v1
from google.longrunning.operations_pb2 import Operation
from google.protobuf.empty_pb2 import Empty

from rehearsal import artifacts, containers, operations, traffic
from rehearsal.errors import Refused
from rehearsal.faults import refusal
from rehearsal.models import check_labels
from rehearsal.world import World, canonical, endpoint_of, location, model_of, now, page

ID = re.compile(r"[a-z]([a-z0-9-]{0,61}[a-z0-9])?|[1-9][0-9]{0,8}")
UPDATABLE = {"display_name", "description", "labels", "traffic_split"}


def create(world: World, request: v1.CreateEndpointRequest) -> Operation:
    """Begin an endpoint."""
    parent, endpoint = canonical(request.parent), v1.Endpoint(request.endpoint)
    if request.endpoint_id and not ID.fullmatch(request.endpoint_id):
        raise Refused("INVALID_ARGUMENT", f"Invalid endpoint_id {request.endpoint_id}.")
    if endpoint.deployed_models:
        raise Refused("INVALID_ARGUMENT", "deployed_models is output only.")
    check_labels(endpoint.labels)
    identity = request.endpoint_id or world.serial()
    name = f"{parent}/endpoints/{identity}"
    if name in world.endpoints:
        raise Refused(
            "ALREADY_EXISTS", f"Endpoint with ID {identity} already exists in {request.parent}."
        )

    def work(_: operations.Operation) -> v1.Endpoint:
        endpoint.name, endpoint.etag = name, world.serial()
        endpoint.create_time = endpoint.update_time = now()
        if endpoint.dedicated_endpoint_enabled:
            endpoint.dedicated_endpoint_dns = world.dedicated
        with world.lock:
            if name in world.endpoints:
                raise Refused("ALREADY_EXISTS", f"Endpoint with ID {identity} already exists.")
            world.endpoints[name] = endpoint
        return endpoint

    return operations.start(
        world, name, v1.CreateEndpointOperationMetadata(), "CreateEndpoint", work
    )


def get(world: World, request: v1.GetEndpointRequest) -> v1.Endpoint:
    """Return an endpoint."""
    return endpoint_of(world, request.name)


def list_(world: World, request: v1.ListEndpointsRequest) -> v1.ListEndpointsResponse:
    """Return a location's endpoints."""
    under = f"{canonical(request.parent)}/endpoints/"
    found, token = page(
        (e for name, e in world.endpoints.items() if name.startswith(under)), request
    )
    return v1.ListEndpointsResponse(endpoints=found, next_page_token=token)


def update(world: World, request: v1.UpdateEndpointRequest) -> v1.Endpoint:
    """Change what the mask names, all of it or nothing."""
    with world.lock:
        endpoint, wanted = endpoint_of(world, request.endpoint.name), request.endpoint
        _same_etag(endpoint, wanted.etag)
        for path in request.update_mask.paths:
            if path.partition(".")[0] not in UPDATABLE:
                raise Refused("INVALID_ARGUMENT", f"Field {path} cannot be updated.")
        if "traffic_split" in request.update_mask.paths:
            traffic.check(
                wanted.traffic_split, {deployed.id for deployed in endpoint.deployed_models}
            )
        check_labels(wanted.labels)
        for path in request.update_mask.paths:
            setattr(endpoint, path.partition(".")[0], getattr(wanted, path.partition(".")[0]))
        return _changed(world, endpoint)


def delete(world: World, request: v1.DeleteEndpointRequest) -> Operation:
    """Delete an endpoint that nothing is deployed to."""
    endpoint = endpoint_of(world, request.name)
    busy = [f"{m.id}" for m in endpoint.deployed_models] + [
        n for e, n in world.pools if e == endpoint.name
    ]
    if busy:
        ids = ", ".join(dict.fromkeys(busy))
        message = f"Endpoint {endpoint.name} has deployed or being-deployed DeployedModel(s) with ID(s): {ids}."
        raise Refused("FAILED_PRECONDITION", message)

    def work(_: operations.Operation) -> Empty:
        world.endpoints.pop(endpoint.name, None)
        return Empty()

    return operations.start(
        world, endpoint.name, v1.DeleteOperationMetadata(), "DeleteEndpoint", work
    )


def deploy(world: World, request: v1.DeployModelRequest) -> Operation:
    """Begin to run a model's containers; the endpoint lists it once all of them are healthy."""
    endpoint, deployed = (
        endpoint_of(world, request.endpoint),
        v1.DeployedModel(request.deployed_model),
    )
    model = model_of(world, deployed.model)
    if location(model.name) != location(endpoint.name):
        raise Refused("INVALID_ARGUMENT", "The model and the endpoint must be in the same region.")
    if "dedicated_resources" not in deployed:
        raise Refused("INVALID_ARGUMENT", "Models of custom containers need dedicated_resources.")
    resources = deployed.dedicated_resources
    resources.max_replica_count = resources.max_replica_count or resources.min_replica_count
    if resources.max_replica_count < resources.min_replica_count:
        raise Refused(
            "INVALID_ARGUMENT", "max_replica_count must not be less than min_replica_count."
        )
    present = {other.id for other in endpoint.deployed_models}
    traffic.check(request.traffic_split, present | {"0"})
    if deployed.id and (not re.fullmatch("[0-9]{1,10}", deployed.id) or deployed.id in present):
        raise Refused("INVALID_ARGUMENT", f"Invalid or taken deployed model ID {deployed.id}.")
    with world.lock:
        _within_quota(world, endpoint, resources)
        deployed.id = deployed.id or world.serial()
        key = (endpoint.name, deployed.id)
        pool = world.pools[key] = containers.Pool(resources)
    deployed.model, deployed.model_version_id = f"{model.name}@{model.version_id}", model.version_id
    deployed.display_name = deployed.display_name or model.display_name

    def work(operation: operations.Operation) -> v1.DeployModelResponse:
        try:
            containers.fetch(world.rules, model.container_spec.image_uri)
            storage = artifacts.copy(world.rules, model)
            env = containers.variables(endpoint, deployed, model, storage)
            first = containers.Replica(world.rules, model, env, resources.machine_spec)
            pool.resize(resources.min_replica_count, first, operation.cancelled)
            if fault := world.faults.strikes("DeployModel.midway", "failing"):
                raise refusal(fault, endpoint.name)  # noqa: TRY301  as if a replica had raised it
        except BaseException:
            pool.stop()
            del world.pools[key]
            raise
        with world.lock:
            deployed.create_time = now()
            endpoint.deployed_models = [*endpoint.deployed_models, deployed]
            if request.traffic_split:
                split = {
                    deployed.id if n == "0" else n: p for n, p in request.traffic_split.items()
                }
                endpoint.traffic_split = split
            _changed(world, endpoint)
        return v1.DeployModelResponse(deployed_model=deployed)

    return operations.start(
        world, endpoint.name, v1.DeployModelOperationMetadata(), "DeployModel", work
    )


def undeploy(world: World, request: v1.UndeployModelRequest) -> Operation:
    """Begin to end a deployed model that has no traffic, or is the last one."""
    endpoint = endpoint_of(world, request.endpoint)
    target = _deployed(endpoint, request.deployed_model_id)
    others = {other.id for other in endpoint.deployed_models} - {target.id}
    traffic.check(request.traffic_split, others | {target.id})
    split = request.traffic_split or endpoint.traffic_split
    if others and split.get(target.id, 0):
        share = split[target.id]
        message = f"Deployed model {target.id} still receives {share} % of the traffic. Update the traffic split first."
        raise Refused("FAILED_PRECONDITION", message)

    def work(_: operations.Operation) -> v1.UndeployModelResponse:
        with world.lock:
            endpoint.deployed_models = [m for m in endpoint.deployed_models if m.id != target.id]
            kept = dict(request.traffic_split or endpoint.traffic_split)
            kept.pop(target.id, None)
            endpoint.traffic_split = kept if endpoint.deployed_models else {}
            _changed(world, endpoint)
            pool = world.pools.get((endpoint.name, target.id))
        if pool:
            pool.stop()
            del world.pools[endpoint.name, target.id]
        return v1.UndeployModelResponse()

    return operations.start(
        world, endpoint.name, v1.UndeployModelOperationMetadata(), "UndeployModel", work
    )


def mutate(world: World, request: v1.MutateDeployedModelRequest) -> Operation:
    """Begin to change a deployed model's number of replicas or what they are scaled by."""
    endpoint = endpoint_of(world, request.endpoint)
    target = _deployed(endpoint, request.deployed_model.id)
    wanted = request.deployed_model.dedicated_resources
    paths = set(request.update_mask.paths)
    allowed = {
        "min_replica_count",
        "max_replica_count",
        "required_replica_count",
        "autoscaling_metric_specs",
    }
    for path in paths:
        if path.removeprefix("dedicated_resources.") not in allowed:
            raise Refused("INVALID_ARGUMENT", f"Field {path} cannot be mutated.")

    def work(operation: operations.Operation) -> v1.MutateDeployedModelResponse:
        with world.lock:
            resources = target.dedicated_resources
            for path in paths:
                name = path.removeprefix("dedicated_resources.")
                setattr(resources, name, getattr(wanted, name))
            resources.max_replica_count = max(
                resources.max_replica_count, resources.min_replica_count
            )
            endpoint.deployed_models = [
                target if m.id == target.id else m for m in endpoint.deployed_models
            ]
            _changed(world, endpoint)
            pool = world.pools[endpoint.name, target.id]
        pool.resize(resources.min_replica_count, pool.replicas[0], operation.cancelled)
        return v1.MutateDeployedModelResponse(deployed_model=target)

    metadata = v1.MutateDeployedModelOperationMetadata()
    return operations.start(world, endpoint.name, metadata, "MutateDeployedModel", work)


def _deployed(endpoint: v1.Endpoint, wanted: str) -> v1.DeployedModel:
    for deployed in endpoint.deployed_models:
        if deployed.id == wanted:
            return deployed
    raise Refused("NOT_FOUND", f"DeployedModel {wanted} is not found in {endpoint.name}.")


def _within_quota(world: World, endpoint: v1.Endpoint, resources: v1.DedicatedResources) -> None:
    """Refuse what would take a region beyond the project's quota, with what is being deployed counted."""
    where = endpoint.name.rsplit("/", 2)[0]
    running = [
        pool.wanted for (name, _), pool in world.pools.items() if name.startswith(f"{where}/")
    ]
    asked = [*running, resources]
    used = sum(containers.cpus(each.machine_spec) * each.min_replica_count for each in asked)
    exceeded = ["CustomModelServingCPUsPerProjectPerRegion"] if used > world.rules.cpus else []
    kind = resources.machine_spec.accelerator_type
    if resources.machine_spec.accelerator_count:
        same = [each for each in asked if each.machine_spec.accelerator_type == kind]
        count = sum(each.machine_spec.accelerator_count * each.min_replica_count for each in same)
        name = "".join(word.title() for word in v1.AcceleratorType(kind).name.split("_")[1:])
        exceeded += (
            [f"CustomModelServing{name}GPUsPerProjectPerRegion"]
            if count > world.rules.accelerators
            else []
        )
    if exceeded:
        message = f"The following quotas are exceeded: {', '.join(exceeded)}"
        raise Refused("RESOURCE_EXHAUSTED", message)


def _same_etag(endpoint: v1.Endpoint, etag: str) -> None:
    if etag and etag != endpoint.etag:
        raise Refused(
            "ABORTED",
            f"The etag {etag} of {endpoint.name} is not the current one: somebody changed it meanwhile.",
        )


def _changed(world: World, endpoint: v1.Endpoint) -> v1.Endpoint:
    endpoint.update_time, endpoint.etag = now(), world.serial()
    return endpoint


METHODS = {
    "CreateEndpoint": create,
    "GetEndpoint": get,
    "ListEndpoints": list_,
    "UpdateEndpoint": update,
    "DeleteEndpoint": delete,
    "DeployModel": deploy,
    "UndeployModel": undeploy,
    "MutateDeployedModel": mutate,
}
