"""Vertex AI's container contract: one test for each clause, whose text is its docstring."""

import concurrent.futures
import contextlib
import json
from collections.abc import Iterator
from typing import Any

import pytest
import requests

from contract.docker import Docker
from contract.suite import SUITE, Suite
from contract.vertex import PROBE_S, Server, UnreachableError, default_routes, uploaded_with

SHARED_ENDPOINT_BYTES = 1_500_000
"""The largest request that a shared public endpoint passes on."""
INVALID = {
    "the body is not JSON": b"<html>",
    "no instances": b"{}",
    "instances is not an array": b'{"instances": 3}',
    "an empty array": b'{"instances": []}',
}


@pytest.fixture(scope="module")
def suite(pytestconfig: pytest.Config) -> Suite:
    """Return the run's options, and what starts a server."""
    return pytestconfig.stash[SUITE]


@pytest.fixture(scope="module")
def instances(suite: Suite) -> list[Any]:
    """Return the instances to send: from {"instances": [...]}, an array, or JSON lines."""
    text = suite.options.instances.read_text()
    try:
        document = json.loads(text)
    except ValueError:
        document = [json.loads(line) for line in text.splitlines() if line.strip()]
    found = document["instances"] if isinstance(document, dict) else document
    assert found, "the file of instances is empty"
    return list(found)


@pytest.fixture(scope="module")
def started(suite: Suite, instances: list[Any]) -> Iterator[Server]:
    """Start the server as a model of it is uploaded; send it a prediction as soon as it is healthy."""
    with suite.running(uploaded_with(suite.options)) as server:
        if server.healthy_s is not None:
            with contextlib.suppress(UnreachableError):
                server.first_code = server.predict({"instances": instances}).status_code
        yield server


@pytest.fixture
def ready(started: Server) -> Server:
    """Return the server if it is healthy; a clause that needs it fails if it is not."""
    if started.healthy_s is None:
        pytest.fail(f"the server never became healthy: {started.describe()}", pytrace=False)
    return started


def test_image_sets_no_aip_variable(suite: Suite) -> None:
    """The image sets no AIP_* variable itself."""
    options = suite.options
    if not options.image:
        pytest.skip("the server is no image")
    template = "{{json .Config.Env}}"
    env = Docker(options.docker)("image", "inspect", "--format", template, options.image)
    assert not [name for name in json.loads(env) or [] if name.startswith("AIP_")]


def test_server_listens_on_aip_http_port(started: Server, suite: Suite) -> None:
    """The server listens on AIP_HTTP_PORT on all addresses within 40 s."""
    closed = f"port {started.variables.port} is closed after {suite.options.liveness_s} s"
    assert started.port_open_s is not None, f"{closed}: {started.describe()}"


def test_default_routes_are_served(suite: Suite, instances: list[Any]) -> None:
    """The default routes of Vertex AI are served."""
    if suite.options.health_route or suite.options.predict_route:
        pytest.skip("the model is uploaded with routes of its own")
    with suite.running(default_routes(suite.options)) as server:
        assert server.healthy_s is not None, server.describe()
        assert server.predict({"instances": instances}).status_code == 200


def test_health_becomes_200(started: Server) -> None:
    """AIP_HEALTH_ROUTE returns 200 once the model is loaded."""
    assert started.healthy_s is not None, started.describe()


def test_health_answers_in_time(ready: Server) -> None:
    """AIP_HEALTH_ROUTE answers within 10 s."""
    response = ready.get_health()
    assert response.status_code == 200
    assert response.elapsed.total_seconds() < PROBE_S


def test_health_is_200_only_once_predictions_are_answered(ready: Server) -> None:
    """AIP_HEALTH_ROUTE returns 200 only once predictions are answered."""
    code = ready.first_code
    assert code == 200, f"health returns 200, the first prediction gets {code or 'no response'}"


def predictions(response: requests.Response) -> list[Any]:
    """Return the predictions of a response; fails if it is not JSON or has none."""
    assert response.status_code == 200, f"{response.status_code}: {response.content[:200]!r}"
    # In a batch the last digits of a number may differ.
    document = response.json(parse_float=lambda number: round(float(number), 2))
    assert isinstance(document, dict), f"expected an object, got {document!r:.200}"
    found = document.get("predictions")
    assert isinstance(found, list), f"expected an array of predictions, got {found!r:.200}"
    return found


def test_predict_answers_instances(ready: Server, instances: list[Any]) -> None:
    """AIP_PREDICT_ROUTE answers instances with predictions."""
    assert predictions(ready.predict({"instances": instances}))


@pytest.mark.parametrize("count", [1, 3, 16])
def test_one_prediction_per_instance(ready: Server, instances: list[Any], count: int) -> None:
    """There is one prediction for each instance."""
    sent = (instances * count)[:count]
    assert len(predictions(ready.predict({"instances": sent}))) == count


def test_order(ready: Server, instances: list[Any]) -> None:
    """Predictions come in the order of the instances."""
    alone = _predict_each(ready, instances)
    if len({str(one) for one in alone}) < 2:
        pytest.skip("needs two instances in --instances FILE that get different predictions")
    together = predictions(ready.predict({"instances": instances[::-1]}))
    assert together == alone[::-1]


def _predict_each(ready: Server, instances: list[Any]) -> list[Any]:
    return [predictions(ready.predict({"instances": [one]}))[0] for one in instances]


def test_response_is_json(ready: Server, instances: list[Any]) -> None:
    """The response is JSON, and its Content-Type is application/json."""
    response = ready.predict({"instances": instances})
    response.json()
    content_type = response.headers.get("Content-Type", "")
    assert content_type.startswith("application/json"), content_type


def test_empty_parameters(ready: Server, instances: list[Any]) -> None:
    """A request may have empty parameters."""
    assert predictions(ready.predict({"instances": instances, "parameters": {}}))


def test_large_request(ready: Server, instances: list[Any]) -> None:
    """A request of 1.5 MB is answered."""
    body = json.dumps({"instances": instances}).encode()
    assert predictions(ready.predict(body.ljust(SHARED_ENDPOINT_BYTES)))


def test_clients_at_the_same_time(ready: Server, instances: list[Any]) -> None:
    """Clients at the same time each get their own response."""
    alone = _predict_each(ready, instances)
    turns = [index % len(instances) for index in range(32)]
    with concurrent.futures.ThreadPoolExecutor(8) as pool:
        responses = list(pool.map(lambda i: ready.predict({"instances": [instances[i]]}), turns))
    for index, response in zip(turns, responses, strict=True):
        assert predictions(response)[0] == alone[index]


@pytest.mark.parametrize("body", INVALID.values(), ids=INVALID.keys())
def test_invalid_request(ready: Server, instances: list[Any], body: bytes) -> None:
    """An invalid request gets a 4xx status."""
    response = ready.predict(body)
    assert 400 <= response.status_code < 500, f"{response.status_code}: {response.content[:200]!r}"
    assert predictions(ready.predict({"instances": instances})), "the next request fails too"


def test_invalid_request_beside_others(ready: Server, instances: list[Any]) -> None:
    """An invalid request does not affect others at the same time."""
    bodies: list[Any] = [b"{}", *[{"instances": instances}] * 7] * 4
    with concurrent.futures.ThreadPoolExecutor(8) as pool:
        responses = list(pool.map(ready.predict, bodies))
    pairs = zip(bodies, responses, strict=True)
    assert {response.status_code for body, response in pairs if body != b"{}"} == {200}


def test_entrypoint_keeps_running(ready: Server) -> None:
    """The entrypoint keeps running while the server is healthy."""
    assert ready.process.is_running, ready.describe()
