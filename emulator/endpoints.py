"""Endpoints, the models deployed to them, and their traffic split."""

import re
from collections.abc import Mapping

from google.cloud import aiplatform_v1 as v1
from google.longrunning.operations_pb2 import Operation

from emulator import operations
from emulator.errors import ApiError, failed_precondition, invalid_argument
from emulator.resources import Method, ResourceType
from emulator.state import State, canonical_name, now

ID = re.compile(r"[a-z]([a-z0-9-]{0,61}[a-z0-9])?|[1-9][0-9]{0,8}")
MAX_INFERENCE_TIMEOUT_S = 3600
UPDATABLE_FIELDS = {
    "client_connection_config",
    "description",
    "display_name",
    "labels",
    "predict_request_response_logging_config",
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
    check_split(endpoint.traffic_split, set())
    _check_timeout(endpoint)
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
            check_split(new.traffic_split, deployed_ids(endpoint))
        _check_timeout(new)
        for field in fields:
            setattr(endpoint, field, getattr(new, field))
        return mark_changed(state, endpoint)


def update_long_running(state: State, request: v1.UpdateEndpointLongRunningRequest) -> Operation:
    """Change how long the endpoint waits: the only field that this method accepts."""
    mask = {"paths": ["client_connection_config"]}
    update_request = v1.UpdateEndpointRequest(endpoint=request.endpoint, update_mask=mask)
    name = ENDPOINTS.find(state, request.endpoint.name).name
    return operations.start(state, name, "UpdateEndpoint", lambda _: update(state, update_request))


def deployed_ids(endpoint: v1.Endpoint) -> set[str]:
    """Return the IDs of the models deployed to an endpoint."""
    return {deployed.id for deployed in endpoint.deployed_models}


def find_deployed(endpoint: v1.Endpoint, deployed_id: str) -> v1.DeployedModel:
    """Return a deployed model of an endpoint; raise ApiError."""
    for deployed in endpoint.deployed_models:
        if deployed.id == deployed_id:
            return deployed
    raise ApiError("NOT_FOUND", f"DeployedModel {deployed_id} is not found in {endpoint.name}.")


def check_split(split: Mapping[str, int], deployed_ids: set[str]) -> None:
    """Raise ApiError if a split does not sum to 100 or has the ID of a model that is not deployed."""
    if not split:
        return
    if sum(split.values()) != 100 or min(split.values()) < 0:
        raise invalid_argument(f"Traffic percentages must sum to 100, but they are {dict(split)}.")
    if unknown := set(split) - deployed_ids:
        raise invalid_argument(
            f"Traffic split names deployed models that do not exist: {', '.join(sorted(unknown))}."
        )


def _check_timeout(endpoint: v1.Endpoint) -> None:
    """Raise ApiError if the inference timeout is longer than Google's limit, which no type states."""
    timeout_s = endpoint.client_connection_config.inference_timeout.total_seconds()
    if not 0 <= timeout_s <= MAX_INFERENCE_TIMEOUT_S:
        raise invalid_argument(
            f"Invalid value for client_connection_config.inference_timeout: {timeout_s:g} s: "
            f"{MAX_INFERENCE_TIMEOUT_S} s at most."
        )


def mark_changed(state: State, endpoint: v1.Endpoint) -> v1.Endpoint:
    """Give an endpoint a new etag and update time, and return it."""
    endpoint.update_time, endpoint.etag = now(), state.next_id()
    return endpoint


METHODS: dict[str, Method] = {
    **ENDPOINTS.methods(),
    "CreateEndpoint": create,
    "UpdateEndpoint": update,
    "UpdateEndpointLongRunning": update_long_running,
}
