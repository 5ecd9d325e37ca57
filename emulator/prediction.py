"""Predictions: routed by the traffic split to a replica, within Google's limits."""

import json
import time
from collections.abc import Iterator, Mapping
from typing import Any

import requests
from google.cloud import aiplatform_v1 as v1
from google.protobuf import json_format

from emulator import containers
from emulator.endpoints import ENDPOINTS, find_deployed
from emulator.errors import ApiError, failed_precondition, invalid_argument
from emulator.resources import Method
from emulator.routes import not_supported
from emulator.state import PredictionRecord, State

STATUSES = (
    "INVALID_ARGUMENT UNAUTHENTICATED PERMISSION_DENIED NOT_FOUND ABORTED RESOURCE_EXHAUSTED CANCELLED "
    "UNIMPLEMENTED UNAVAILABLE DEADLINE_EXCEEDED"
)
STATUS_BY_HTTP_STATUS = {ApiError(status, "").http_status: status for status in STATUSES.split()}
"""HTTP status of a container's response → Google's name for it."""


class WeightedRoundRobin:
    """Picks deployed models in the proportions of a split: any 100 picks match its percentages exactly."""

    def __init__(self) -> None:
        self._credits: dict[str, int] = {}

    def pick(self, split: Mapping[str, int]) -> str:
        """Return the next deployed model's ID; raise ApiError if none has traffic."""
        percents = {number: percent for number, percent in split.items() if percent > 0}
        if not percents:
            raise failed_precondition("The endpoint has no deployed model that receives traffic.")
        self._credits = {
            number: self._credits.get(number, 0) + percent for number, percent in percents.items()
        }
        picked = max(self._credits, key=lambda number: self._credits[number])
        self._credits[picked] -= 100
        return picked


MAX_SHOWN_BYTES = 500
"""How much of an invalid response an error shows."""
_balancers: dict[str, WeightedRoundRobin] = {}
"""Endpoint → its balancer."""


def predict(state: State, name: str, body: bytes, *, dedicated: bool) -> bytes:
    """Return the response to :predict: the container's, with the deployed model's fields; raise ApiError."""
    request = containers.ContainerRequest(body, containers.JSON_TYPE)
    response, deployed = forward(state, name, request, dedicated=dedicated)
    if response.status_code != 200:
        raise to_error(response)
    content = parse_predictions(response.content)
    fields = {
        "deployedModelId": deployed.id,
        "model": deployed.model.partition("@")[0],
        "modelDisplayName": deployed.display_name,
        "modelVersionId": deployed.model_version_id,
    }
    return json.dumps(content | fields).encode()


def explain(state: State, request: v1.ExplainRequest) -> v1.ExplainResponse:
    """Raise ApiError: the containers that the emulator runs have no explanation_spec."""
    endpoint = ENDPOINTS.find(state, request.endpoint)
    number = request.deployed_model_id or max(
        endpoint.traffic_split, key=lambda key: endpoint.traffic_split[key], default=""
    )
    if "explanation_spec" not in find_deployed(endpoint, number):
        message = f"Deployed model {number} has no explanation_spec: explanations are not enabled."
        raise failed_precondition(message)
    raise not_supported("Explain of PredictionService")


def forward(
    state: State, name: str, request: containers.ContainerRequest, *, dedicated: bool
) -> tuple[requests.Response, v1.DeployedModel]:
    """Send a request to a deployed model, within the endpoint's limits; return its response and the model.

    Raises:
        ApiError: wrong domain for the endpoint, a limit exceeded, no replica, or no response.

    """
    endpoint = ENDPOINTS.find(state, name)
    _check_domain(endpoint, dedicated=dedicated)
    config = state.config
    max_bytes = config.max_dedicated_bytes if dedicated else config.max_shared_bytes
    timeout_s = config.dedicated_timeout_s if dedicated else config.shared_timeout_s
    if dedicated and (own := endpoint.client_connection_config.inference_timeout):
        timeout_s = own.total_seconds()
    if len(request.body) > max_bytes:
        raise invalid_argument(f"Request payload size exceeds the limit: {max_bytes} bytes.")
    with state.lock:
        balancer = _balancers.setdefault(endpoint.name, WeightedRoundRobin())
        deployed_id = request.deployed_id or balancer.pick(endpoint.traffic_split)
        deployed = find_deployed(endpoint, deployed_id)
        pool = state.pools[endpoint.name, deployed_id]
    start = time.monotonic()
    status = 503
    try:
        response = pool.pick().predict(request, timeout_s)
        status = response.status_code
    except requests.Timeout:
        status = 504
        raise ApiError("DEADLINE_EXCEEDED", "The container did not answer in time.") from None
    except requests.RequestException as error:
        raise ApiError("UNAVAILABLE", f"upstream connect error or disconnect: {error!r}") from None
    finally:
        latency_ms = (time.monotonic() - start) * 1000
        endpoint_id = endpoint.name.rsplit("/", 1)[-1]
        record = PredictionRecord(time.time(), endpoint_id, deployed_id, status, latency_ms)
        state.predictions.append(record)
    if not request.is_streamed and len(response.content) > max_bytes:
        raise ApiError("INTERNAL", f"Response size exceeds the limit: {max_bytes} bytes.")
    return response, deployed


def parse_predictions(body: bytes) -> dict[str, Any]:
    """Return the JSON of a container's response, which must be a PredictResponse; raise ApiError."""
    try:
        content = json.loads(body, parse_constant=_refuse_constant)
        if not isinstance(content, dict):
            raise _invalid_response("it is not an object", body)
        json_format.ParseDict(content, v1.PredictResponse.pb()())
    except json_format.ParseError as error:
        raise _invalid_response(str(error), body) from None
    except ValueError as error:
        raise _invalid_response(f"it is not JSON: {error}", body) from None
    if "predictions" not in content:
        raise _invalid_response("the response field predictions is missing", body)
    return content


def _refuse_constant(name: str) -> Any:
    raise ValueError(f"{name} is not a number of JSON")


def _invalid_response(what: str, body: bytes) -> ApiError:
    shown = body[:MAX_SHOWN_BYTES].decode(errors="replace")
    message = f"Invalid response from prediction server - {what}. Response: {shown}"
    return failed_precondition(message)


def read_stream(response: requests.Response) -> Iterator[bytes]:
    """Yield the parts of a response as the container sends them; close it at the end, or if the client leaves."""
    with response:
        yield from response.iter_content(None)


def _check_domain(endpoint: v1.Endpoint, *, dedicated: bool) -> None:
    """Raise ApiError if a request arrived at the other domain than the endpoint's."""
    is_private = endpoint.private_service_connect_config.enable_private_service_connect
    if endpoint.dedicated_endpoint_enabled and not dedicated:
        raise failed_precondition(
            "This endpoint is a dedicated endpoint and cannot be accessed through the shared one. "
            f"Please access the endpoint using its dedicated dns name '{endpoint.dedicated_endpoint_dns}'"
        )
    if is_private and not dedicated:
        raise failed_precondition(
            "This endpoint is private: it can be accessed through Private Service Connect only."
        )
    if endpoint.network:
        raise failed_precondition(
            f"This endpoint is private: it can be accessed from the network {endpoint.network} only."
        )
    if dedicated and not endpoint.dedicated_endpoint_enabled and not is_private:
        raise ApiError("NOT_FOUND", f"{endpoint.name} is not a dedicated endpoint.")


def to_error(response: requests.Response) -> ApiError:
    """Return a container's error with its status and body. Google does not document what clients get."""
    code = response.status_code
    status = STATUS_BY_HTTP_STATUS.get(code, "INVALID_ARGUMENT" if code < 500 else "INTERNAL")
    return ApiError(status, response.content.decode(errors="replace"))


METHODS: dict[str, Method] = {"Explain": explain}
