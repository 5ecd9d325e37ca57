"""The requirements of Vertex AI's container contract: each is one test, and its docstring is the requirement."""

import concurrent.futures
import contextlib
import json
import math
from collections.abc import Iterator
from typing import Any

import pytest
import requests

from contract.docker import Docker
from contract.suite import SUITE_KEY, Suite
from contract.vertex import (
    HEALTH_TIMEOUT_S,
    Example,
    Server,
    UnreachableError,
    build_request,
    group_by_parameters,
    read_examples,
    variables_for_upload,
    variables_with_default_routes,
)

MAX_REQUEST_BYTES = 1_500_000
"""The largest request that a shared public endpoint accepts."""
INVALID_BODIES = {
    "the body is not JSON": b"<html>",
    "no instances": b"{}",
    "instances is not an array": b'{"instances": 3}',
    "an empty array": b'{"instances": []}',
}


@pytest.fixture(scope="module")
def suite(pytestconfig: pytest.Config) -> Suite:
    """Return the plugin that holds the options of this run and starts servers."""
    return pytestconfig.stash[SUITE_KEY]


@pytest.fixture(scope="module")
def examples(suite: Suite) -> list[Example]:
    """Return the instances of --instances FILE."""
    return read_examples(suite.options.instances)


@pytest.fixture(scope="module")
def group(examples: list[Example]) -> list[Example]:
    """Return the instances that are sent together: as many as possible with the same parameters."""
    return group_by_parameters(examples)[0]


@pytest.fixture(scope="module")
def body(group: list[Example]) -> dict[str, Any]:
    """Return the body of a valid request."""
    return build_request(group)


@pytest.fixture(scope="module")
def server(suite: Suite, body: dict[str, Any]) -> Iterator[Server]:
    """Start the server as Vertex AI does, and send a prediction as soon as it is healthy."""
    with suite.running(variables_for_upload(suite.options)) as server:
        if server.healthy_s is not None:
            with contextlib.suppress(UnreachableError):
                server.first_status = server.predict(body).status_code
        yield server


@pytest.fixture
def healthy_server(server: Server) -> Server:
    """Return the server; a check that uses it fails if the server did not become healthy."""
    if server.healthy_s is None:
        pytest.fail(f"the server did not become healthy: {server.describe()}", pytrace=False)
    return server


def test_image_sets_no_aip_variable(suite: Suite) -> None:
    """The image sets no AIP_* variable."""
    options = suite.options
    if not options.image:
        pytest.skip("the server does not run in a container")
    template = "{{json .Config.Env}}"
    env = Docker(options.docker)("image", "inspect", "--format", template, options.image)
    assert not [name for name in json.loads(env) or [] if name.startswith("AIP_")]


def test_server_listens_on_aip_http_port(server: Server, suite: Suite) -> None:
    """The server listens on AIP_HTTP_PORT, on all interfaces, within 40 s."""
    closed = f"port {server.variables.port} is closed after {suite.options.liveness_s} s"
    assert server.port_open_s is not None, f"{closed}: {server.describe()}"


def test_server_serves_default_routes(suite: Suite, body: dict[str, Any]) -> None:
    """The server serves the default routes of Vertex AI."""
    if suite.options.health_route or suite.options.predict_route:
        pytest.skip("the model is uploaded with its own routes")
    with suite.running(variables_with_default_routes(suite.options)) as server:
        assert server.healthy_s is not None, server.describe()
        assert server.predict(body).status_code == 200


def test_health_becomes_200(server: Server) -> None:
    """AIP_HEALTH_ROUTE returns 200 once the model is loaded."""
    assert server.healthy_s is not None, server.describe()


def test_health_responds_in_time(healthy_server: Server) -> None:
    """AIP_HEALTH_ROUTE responds within 10 s."""
    response = healthy_server.get_health()
    assert response.status_code == 200
    assert response.elapsed.total_seconds() < HEALTH_TIMEOUT_S


def test_health_is_200_only_when_predictions_succeed(healthy_server: Server) -> None:
    """AIP_HEALTH_ROUTE returns 200 only when predictions succeed."""
    status = healthy_server.first_status
    assert status == 200, f"health returns 200, the first prediction gets {status or 'no response'}"


def parse_predictions(response: requests.Response) -> list[Any]:
    """Return the predictions of a response; fail if its status is not 200 or it has none."""
    assert response.status_code == 200, f"{response.status_code}: {response.content[:200]!r}"
    document = response.json()
    assert isinstance(document, dict), f"expected an object, got {document!r:.200}"
    predictions = document.get("predictions")
    assert isinstance(predictions, list), f"expected an array, got {predictions!r:.200}"
    return predictions


def are_same(first: Any, second: Any) -> bool:
    """Return whether two predictions are equal, except for the last digits of floats: they may depend on the batch."""
    match first, second:
        case dict(), dict():
            return first.keys() == second.keys() and all(
                are_same(value, second[key]) for key, value in first.items()
            )
        case list(), list():
            return len(first) == len(second) and all(map(are_same, first, second))
        case (float(), float() | int()) | (int(), float()):
            return math.isclose(first, second, rel_tol=0.001, abs_tol=0.01)
    return bool(first == second)


def test_predict_returns_predictions(healthy_server: Server, examples: list[Example]) -> None:
    """AIP_PREDICT_ROUTE returns predictions for instances."""
    for group in group_by_parameters(examples):
        assert parse_predictions(healthy_server.predict(build_request(group)))


@pytest.mark.parametrize("count", [1, 3, 16], ids=lambda count: f"{count} instances")
def test_response_has_one_prediction_per_instance(
    healthy_server: Server, group: list[Example], count: int
) -> None:
    """The response has one prediction for each instance."""
    sent = (group * count)[:count]
    assert len(parse_predictions(healthy_server.predict(build_request(sent)))) == count


def test_predictions_are_in_order(healthy_server: Server, group: list[Example]) -> None:
    """Predictions are in the order of the instances."""
    expected = _predict_each(healthy_server, group)
    if all(are_same(expected[0], prediction) for prediction in expected[1:]):
        pytest.skip(
            "needs two instances in --instances FILE that have the same parameters and get "
            "different predictions"
        )
    predictions = parse_predictions(healthy_server.predict(build_request(group[::-1])))
    assert are_same(predictions, expected[::-1]), f"{predictions!r:.200}"


def _predict_each(server: Server, examples: list[Example]) -> list[Any]:
    return [parse_predictions(server.predict(build_request([example])))[0] for example in examples]


def test_response_is_json(healthy_server: Server, body: dict[str, Any]) -> None:
    """The response is JSON, and its Content-Type is application/json."""
    response = healthy_server.predict(body)
    response.json()
    content_type = response.headers.get("Content-Type", "")
    assert content_type.startswith("application/json"), content_type


def test_empty_parameters_are_accepted(healthy_server: Server, body: dict[str, Any]) -> None:
    """A request may have empty parameters."""
    if "parameters" in body:
        pytest.skip("needs an instance without parameters in --instances FILE")
    assert parse_predictions(healthy_server.predict({**body, "parameters": {}}))


def test_large_request_is_accepted(healthy_server: Server, body: dict[str, Any]) -> None:
    """The server accepts a request of 1.5 MB."""
    content = json.dumps(body).encode()
    assert parse_predictions(healthy_server.predict(content.ljust(MAX_REQUEST_BYTES)))


def test_concurrent_requests_get_their_own_predictions(
    healthy_server: Server, examples: list[Example]
) -> None:
    """Each of several concurrent requests gets its own predictions."""
    expected = _predict_each(healthy_server, examples)
    indexes = [number % len(examples) for number in range(32)]
    bodies = [build_request([examples[index]]) for index in indexes]
    with concurrent.futures.ThreadPoolExecutor(8) as pool:
        responses = list(pool.map(healthy_server.predict, bodies))
    for index, response in zip(indexes, responses, strict=True):
        [prediction] = parse_predictions(response)
        assert are_same(prediction, expected[index]), f"{prediction!r:.200}"


@pytest.mark.parametrize("invalid", INVALID_BODIES.values(), ids=INVALID_BODIES.keys())
def test_invalid_request_gets_4xx(
    healthy_server: Server, body: dict[str, Any], invalid: bytes
) -> None:
    """An invalid request gets a 4xx status."""
    response = healthy_server.predict(invalid)
    assert 400 <= response.status_code < 500, f"{response.status_code}: {response.content[:200]!r}"
    valid = healthy_server.predict(body)
    assert parse_predictions(valid), "the next valid request fails too"


def test_invalid_request_is_isolated(healthy_server: Server, body: dict[str, Any]) -> None:
    """An invalid request does not affect concurrent requests."""
    bodies: list[Any] = [b"{}", *[body] * 7] * 4
    with concurrent.futures.ThreadPoolExecutor(8) as pool:
        responses = list(pool.map(healthy_server.predict, bodies))
    pairs = zip(bodies, responses, strict=True)
    assert {response.status_code for sent, response in pairs if sent != b"{}"} == {200}


def test_entrypoint_keeps_running(healthy_server: Server) -> None:
    """The entrypoint keeps running while the server is healthy."""
    assert healthy_server.process.is_running, healthy_server.describe()
