"""Predictions: through the traffic split to a replica, within Google's limits."""

import json
import time
from collections.abc import Mapping
from typing import NamedTuple

import requests
from google.cloud import aiplatform_v1 as v1

from emulator import endpoints
from emulator.containers import ReplicaPool
from emulator.errors import ApiError, failed_precondition, invalid_argument
from emulator.state import State

STATUSES = (
    "INVALID_ARGUMENT UNAUTHENTICATED PERMISSION_DENIED NOT_FOUND ABORTED RESOURCE_EXHAUSTED CANCELLED "
    "UNIMPLEMENTED UNAVAILABLE DEADLINE_EXCEEDED"
)
"""What Google calls a container's HTTP status, where it has a name for it."""
NAMES = {ApiError(status, "").http: status for status in STATUSES.split()}


class PredictionRecord(NamedTuple):
    """What Cloud Monitoring keeps of one prediction."""

    at: float
    endpoint: str
    deployed: str
    code: int
    ms: float


class WeightedRoundRobin:
    """Picks deployed models in the split's proportions, evenly spread: of any 100 picks, its percents."""

    def __init__(self) -> None:
        self._owed: dict[str, int] = {}

    def pick(self, split: Mapping[str, int]) -> str:
        """Return who is next; raise Refused where nobody is."""
        shares = {number: percent for number, percent in split.items() if percent > 0}
        if not shares:
            raise failed_precondition("The endpoint has no deployed model that receives traffic.")
        self._owed = {
            number: self._owed.get(number, 0) + percent for number, percent in shares.items()
        }
        chosen = max(self._owed, key=lambda number: self._owed[number])
        self._owed[chosen] -= 100
        return chosen


_turns: dict[str, WeightedRoundRobin] = {}


def predict(state: State, name: str, body: bytes, *, dedicated: bool) -> bytes:
    """Answer :predict: the container's predictions and who made them; raise Refused."""
    reply, deployed = forward(state, name, body, "application/json", dedicated=dedicated)
    if reply.status_code != 200:
        raise _failed(reply)
    try:
        answer = reply.json()
    except ValueError:
        raise ApiError("INTERNAL", "The container's answer is not JSON.") from None
    by = {
        "deployedModelId": deployed.id,
        "model": deployed.model.partition("@")[0],
        "modelDisplayName": deployed.display_name,
        "modelVersionId": deployed.model_version_id,
    }
    return json.dumps(answer | by).encode()


def forward(
    state: State, name: str, body: bytes, kind: str, *, dedicated: bool
) -> tuple[requests.Response, v1.DeployedModel]:
    """Send a body to whom the split chooses, within the endpoint's limits; raise Refused."""
    endpoint = endpoints.KIND.find(state, name)
    if endpoint.dedicated_endpoint_enabled and not dedicated:
        message = (
            "This endpoint is a dedicated endpoint and cannot be accessed through the shared one. "
            f"Please access the endpoint using its dedicated dns name '{endpoint.dedicated_endpoint_dns}'"
        )
        raise failed_precondition(message)
    if dedicated and not endpoint.dedicated_endpoint_enabled:
        raise ApiError("NOT_FOUND", f"{name} is not a dedicated endpoint.")
    limit = state.config.max_dedicated_bytes if dedicated else state.config.max_shared_bytes
    if len(body) > limit:
        raise invalid_argument(f"Request payload size exceeds the limit: {limit} bytes.")
    with state.lock:
        chosen = _turns.setdefault(endpoint.name, WeightedRoundRobin()).pick(endpoint.traffic_split)
        deployed = next(each for each in endpoint.deployed_models if each.id == chosen)
        pool: ReplicaPool = state.pools[endpoint.name, chosen]
    began = time.monotonic()
    status = 503
    try:
        limit_s = state.config.dedicated_timeout_s if dedicated else state.config.shared_timeout_s
        reply = pool.pick().predict(body, kind, limit_s)
        status = reply.status_code
    except requests.Timeout:
        status = 504
        raise ApiError("DEADLINE_EXCEEDED", "The container did not answer in time.") from None
    except requests.RequestException as error:
        raise ApiError("UNAVAILABLE", f"upstream connect error or disconnect: {error!r}") from None
    finally:
        ms = (time.monotonic() - began) * 1000
        state.predictions.append(
            PredictionRecord(time.time(), endpoint.name.rsplit("/", 1)[-1], chosen, status, ms)
        )
    if len(reply.content) > limit:
        raise ApiError("INTERNAL", f"Response size exceeds the limit: {limit} bytes.")
    return reply, deployed


def _failed(reply: requests.Response) -> ApiError:
    """Return a container's error with its status and words: what a client sees of it is not documented."""
    code = reply.status_code
    status = NAMES.get(code, "INVALID_ARGUMENT" if code < 500 else "INTERNAL")
    return ApiError(status, reply.content.decode(errors="replace"))
