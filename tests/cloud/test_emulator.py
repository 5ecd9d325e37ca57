"""The stand-in is as strict as Google: types, limits, splits, health, errors. With requests as curl makes them."""

import time
from collections.abc import Callable
from typing import Any

import pytest
import requests

from contract.docker import Docker
from emulator.stack import Stack
from emulator.state import project_number
from tests.cloud.conftest import POLL_S, PROJECT, REGION, TINY
from tests.container.conftest import DOCKER
from tests.http import wait_for

PARENT = f"projects/{PROJECT}/locations/{REGION}"
MODEL = {
    "displayName": "digits",
    "containerSpec": {
        "imageUri": f"{TINY}:1",
        "ports": [{"containerPort": 9090}],
        "healthRoute": "/well",
        "predictRoute": "/ask",
        "env": [{"name": "COLOUR", "value": "red"}],
    },
}
MACHINE = {"machineSpec": {"machineType": "e2-standard-2"}, "minReplicaCount": 1}
Call = Callable[..., Any]


class Error(Exception):
    """The error in a response body."""


@pytest.fixture
def call(stack: Stack) -> Call:
    """Return a function that makes a request and waits for its operation; raise Error."""

    def ask(verb: str, path: str, content: Any = None) -> Any:
        reply = requests.request(verb, f"{stack.url}/v1/{path}", json=content, timeout=60)
        if reply.status_code != 200:
            error = reply.json()["error"]
            assert error["code"] == reply.status_code
            raise Error(f"{reply.status_code} {error['status']}: {error['message']}")
        answer = reply.json()
        while "/operations/" in answer.get("name", "") and not answer.get("done"):
            time.sleep(POLL_S)
            answer = requests.get(f"{stack.url}/v1/{answer['name']}", timeout=60).json()
        if "error" in answer:
            raise Error(f"{answer['error']['code']}: {answer['error']['message']}")
        return answer.get("response", answer)

    return ask


@pytest.fixture
def endpoint(call: Call) -> str:
    """Return an endpoint that serves the tiny image; the deployed model's ID is in its split."""
    call("POST", f"{PARENT}/models:upload", {"model": MODEL, "modelId": "digits"})
    call("POST", f"{PARENT}/endpoints?endpointId=e", {"displayName": "e"})
    deployed = {"model": f"{PARENT}/models/digits", "dedicatedResources": MACHINE}
    call(
        "POST",
        f"{PARENT}/endpoints/e:deployModel",
        {"deployedModel": deployed, "trafficSplit": {"0": 100}},
    )
    return f"{PARENT}/endpoints/e"


UPLOAD, DEPLOY = "POST models:upload", "POST endpoints/e:deployModel"
RESOURCES = {"dedicatedResources": MACHINE}


def deploying(deployed: Any, split: Any = None) -> Any:
    whole = {"model": f"{PARENT}/models/digits"} | deployed
    return {"deployedModel": whole, "trafficSplit": split or {}}


@pytest.mark.parametrize(
    ("line", "content", "said"),
    [
        (UPLOAD, {"model": MODEL | {"displayNam": "x"}}, "Unknown name \"displayNam\" at 'model'"),
        (UPLOAD, {"model": MODEL, "modelID": "x"}, 'Unknown name "modelID"'),
        (UPLOAD, {"model": MODEL | {"displayName": 3}}, "400 INVALID_ARGUMENT: .*displayName"),
        (UPLOAD, {"model": {"containerSpec": {}}}, "not set: model.display_name"),
        (UPLOAD, {"model": MODEL | {"containerSpec": {"ports": []}}}, "container_spec.image_uri"),
        (UPLOAD, {}, "400 INVALID_ARGUMENT: .*model"),
        (UPLOAD, {"model": MODEL, "modelId": "Digits!"}, "400 INVALID_ARGUMENT: .*Digits!"),
        (UPLOAD, {"model": MODEL | {"labels": {"A B": "c"}}}, "Invalid label"),
        (
            DEPLOY,
            deploying({"dedicatedResources": {"machineSpec": {"machineType": "e2-standard-2"}}}),
            "not set: deployed_model.dedicated_resources.min_replica_count",
        ),
        (DEPLOY, deploying({}), "dedicated_resources"),
        (DEPLOY, deploying(RESOURCES, {"0": 90}), "sum to 100"),
        (DEPLOY, deploying(RESOURCES, {"0": 50, "77": 50}), "77"),
        (DEPLOY, deploying({"dedicatedResources": {"machineTypo": "x"}}), "machineTypo"),
        ("GET models/nothing", None, "404 NOT_FOUND"),
        ("POST endpoints/nothing:predict", {"instances": [1]}, "404 NOT_FOUND"),
        ("DELETE endpoints/nothing", {}, "404 NOT_FOUND"),
        ("GET endpoints?pageSise=3", None, 'Unknown name "pageSise"'),
        ("POST models:uplaod", {}, "404 NOT_FOUND: Google publishes no method"),
        (
            "POST models/m:export",
            {},
            "501 UNIMPLEMENTED: the emulator does not support ExportModel",
        ),
    ],
)
def test_what_google_would_refuse_is_refused(
    call: Call, line: str, content: Any, said: str
) -> None:
    if line == DEPLOY:
        call("POST", f"{PARENT}/models:upload", {"model": MODEL, "modelId": "digits"})
        call("POST", f"{PARENT}/endpoints?endpointId=e", {"displayName": "e"})
    verb, path = line.split()
    with pytest.raises(Error, match=said):
        call(verb, f"{PARENT}/{path}", content)


def test_the_container_gets_vertex_ais_environment(call: Call, endpoint: str) -> None:
    number = call("GET", endpoint)["deployedModels"][0]["id"]
    expected = {
        "AIP_HTTP_PORT": "9090",
        "AIP_HEALTH_ROUTE": "/well",
        "AIP_PREDICT_ROUTE": "/ask",
        "AIP_STORAGE_URI": "",
        "AIP_MODE": "PREDICTION",
        "AIP_MODE_VERSION": "1.0.0",
        "AIP_FRAMEWORK": "CUSTOM_CONTAINER",
        "AIP_ENDPOINT_ID": "e",
        "AIP_MODEL_NAME": "e",
        "AIP_DEPLOYED_MODEL_ID": number,
        "AIP_VERSION_NAME": number,
        "AIP_MACHINE_TYPE": "e2-standard-2",
        "AIP_ACCELERATOR_TYPE": None,
        "COLOUR": "red",
        "AIP_PROJECT_NUMBER": project_number(PROJECT),
    }
    asked = {"instances": [{"environment": name} for name in expected]}
    found = call("POST", f"{endpoint}:predict", asked)["predictions"]
    assert dict(zip(expected, found, strict=True)) == expected


def test_requests_and_answers_have_their_limits(call: Call, endpoint: str) -> None:
    assert call("POST", f"{endpoint}:predict", {"instances": ["x" * 1_500_000]})
    for content, said in (
        ({"instances": ["x" * 1_600_000]}, "400 .*Request payload size exceeds the limit: 1572864"),
        ({"instances": [{"bytes": 1_600_000}]}, "Response size exceeds the limit"),
        ({"instances": [{"seconds": 3}]}, "504 DEADLINE_EXCEEDED"),
        ({"instance": [1]}, '400 INVALID_ARGUMENT: .*Unknown name "instance"'),
        ({}, "400 INVALID_ARGUMENT: .*instances"),
    ):
        with pytest.raises(Error, match=said):
            call("POST", f"{endpoint}:predict", content)


def test_a_split_is_kept_to_the_percent(call: Call, endpoint: str) -> None:
    deployed = {"model": f"{PARENT}/models/digits@1", "dedicatedResources": MACHINE}
    first = call("GET", endpoint)["deployedModels"][0]["id"]
    split = {"0": 30, first: 70}
    call("POST", f"{endpoint}:deployModel", {"deployedModel": deployed, "trafficSplit": split})
    asked_of = [
        call("POST", f"{endpoint}:predict", {"instances": [1]})["deployedModelId"]
        for _ in range(100)
    ]
    assert asked_of.count(first) == 70
    with pytest.raises(Error, match="traffic"):
        call("POST", f"{endpoint}:undeployModel", {"deployedModelId": first})


def test_a_container_that_dies_is_started_again(call: Call, endpoint: str, stack: Stack) -> None:
    with pytest.raises(Error, match="503 UNAVAILABLE"):
        call("POST", f"{endpoint}:predict", {"instances": [{"exit": True}]})
    predict = f"{stack.url}/v1/{endpoint}:predict"
    wait_for(lambda: requests.post(predict, json={"instances": [1]}, timeout=60).ok, 60, "a start")


def test_two_who_change_an_endpoint_at_once_do_not_undo_each_other(
    call: Call, endpoint: str
) -> None:
    etag = call("GET", endpoint)["etag"]
    call("PATCH", f"{endpoint}?updateMask=labels", {"labels": {"a": "1"}, "etag": etag})
    with pytest.raises(Error, match="409 ABORTED"):
        call("PATCH", f"{endpoint}?updateMask=labels", {"labels": {"a": "2"}, "etag": etag})


def test_what_is_undeployed_answers_no_more_and_nothing_is_left_running(
    call: Call, endpoint: str, tiny: str
) -> None:
    number = call("GET", endpoint)["deployedModels"][0]["id"]
    running = ("ps", "--quiet", "--filter", f"ancestor={tiny}")
    assert Docker(DOCKER)(*running)
    call("POST", f"{endpoint}:undeployModel", {"deployedModelId": number})
    assert not Docker(DOCKER)(*running)
    with pytest.raises(Error, match="no deployed model"):
        call("POST", f"{endpoint}:predict", {"instances": [1]})
