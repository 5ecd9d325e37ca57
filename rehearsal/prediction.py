"""Predictions: through the traffic split to a replica, within Google's limits."""

import http.client
import json
import time
from typing import NamedTuple

from google.cloud import aiplatform_v1 as v1

from rehearsal.containers import Pool, Replica
from rehearsal.errors import Refused
from rehearsal.traffic import Turns
from rehearsal.world import World, endpoint_of

_turns: dict[str, Turns] = {}
STATUSES = {
    400: "INVALID_ARGUMENT",
    401: "UNAUTHENTICATED",
    403: "PERMISSION_DENIED",
    404: "NOT_FOUND",
    409: "ABORTED",
    429: "RESOURCE_EXHAUSTED",
    499: "CANCELLED",
    501: "UNIMPLEMENTED",
    503: "UNAVAILABLE",
    504: "DEADLINE_EXCEEDED",
}


class Answered(NamedTuple):
    """What Cloud Monitoring keeps of one prediction."""

    at: float
    endpoint: str
    deployed: str
    code: int
    ms: float


class Reply(NamedTuple):
    """What a container said."""

    status: int
    kind: str
    body: bytes
    deployed: v1.DeployedModel


def predict(world: World, name: str, body: bytes, *, dedicated: bool) -> bytes:
    """Answer :predict: the container's predictions and who made them; raise Refused."""
    reply = ask(world, name, body, "application/json", dedicated=dedicated)
    if reply.status != 200:
        raise _failed(reply)
    try:
        answer = json.loads(reply.body)
    except ValueError:
        raise Refused("INTERNAL", "The container's answer is not JSON.") from None
    deployed = reply.deployed
    said = {
        "deployedModelId": deployed.id,
        "model": deployed.model.partition("@")[0],
        "modelDisplayName": deployed.display_name,
        "modelVersionId": deployed.model_version_id,
    }
    return json.dumps(answer | said).encode()


def ask(world: World, name: str, body: bytes, kind: str, *, dedicated: bool) -> Reply:
    """Send a body to whom the split chooses, within the endpoint's limits; raise Refused."""
    endpoint = endpoint_of(world, name)
    if endpoint.dedicated_endpoint_enabled and not dedicated:
        message = (
            "This endpoint is a dedicated endpoint and cannot be accessed through the shared one. "
            f"Please access the endpoint using its dedicated dns name '{endpoint.dedicated_endpoint_dns}'"
        )
        raise Refused("FAILED_PRECONDITION", message)
    if dedicated and not endpoint.dedicated_endpoint_enabled:
        raise Refused("NOT_FOUND", f"{name} is not a dedicated endpoint.")
    limit = world.rules.dedicated_bytes if dedicated else world.rules.shared_bytes
    if len(body) > limit:
        raise Refused("INVALID_ARGUMENT", f"Request payload size exceeds the limit: {limit} bytes.")
    with world.lock:
        chosen = _turns.setdefault(endpoint.name, Turns()).pick(endpoint.traffic_split)
        deployed = next(each for each in endpoint.deployed_models if each.id == chosen)
        pool: Pool = world.pools[endpoint.name, chosen]
    began = time.monotonic()
    status = 503
    try:
        reply = _post(
            pool.pick(), body, kind, world.rules.dedicated_s if dedicated else world.rules.shared_s
        )
        status = reply[0]
    except TimeoutError:
        status = 504
        raise Refused("DEADLINE_EXCEEDED", "The container did not answer in time.") from None
    except (OSError, http.client.HTTPException) as error:
        raise Refused("UNAVAILABLE", f"upstream connect error or disconnect: {error!r}") from None
    finally:
        ms = (time.monotonic() - began) * 1000
        world.answered.append(
            Answered(time.time(), endpoint.name.rsplit("/", 1)[-1], chosen, status, ms)
        )
    if len(reply[2]) > limit:
        raise Refused("INTERNAL", f"Response size exceeds the limit: {limit} bytes.")
    return Reply(*reply, deployed)


def _post(replica: Replica, body: bytes, kind: str, timeout_s: float) -> tuple[int, str, bytes]:
    connection = http.client.HTTPConnection(*replica.address, timeout=timeout_s)
    try:
        connection.request("POST", replica.env["AIP_PREDICT_ROUTE"], body, {"Content-Type": kind})
        response = connection.getresponse()
        return response.status, response.getheader("Content-Type", ""), response.read()
    finally:
        connection.close()


def _failed(reply: Reply) -> Refused:
    """Return a container's error with its status and words: what a client sees of it is not documented."""
    status = STATUSES.get(reply.status, "INVALID_ARGUMENT" if reply.status < 500 else "INTERNAL")
    return Refused(status, reply.body.decode(errors="replace"))
