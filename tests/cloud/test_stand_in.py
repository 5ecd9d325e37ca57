"""The stand-in is as strict as Google: types, limits, splits, health, errors. With requests as curl makes them."""

import time
from collections.abc import Callable
from dataclasses import replace
from typing import Any

import pytest
import requests

from contract.docker import Docker
from rehearsal.stage import Stage
from tests.cloud.conftest import POLL_S, PROJECT, REGION, TINY
from tests.container.conftest import DOCKER

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
    """What Google's body says of a refusal."""


@pytest.fixture
def call(empty: Stage) -> Call:
    """Return a function that makes a request and waits for its operation; raise Error."""

    def ask(verb: str, path: str, content: Any = None) -> Any:
        reply = requests.request(verb, f"{empty.url}/v1/{path}", json=content, timeout=60)
        if reply.status_code != 200:
            error = reply.json()["error"]
            assert error["code"] == reply.status_code
            raise Error(f"{reply.status_code} {error['status']}: {error['message']}")
        answer = reply.json()
        while "/operations/" in answer.get("name", "") and not answer.get("done"):
            time.sleep(POLL_S)
            answer = requests.get(f"{empty.url}/v1/{answer['name']}", timeout=60).json()
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


@pytest.mark.parametrize(
    ("content", "said"),
    [
        ({"model": MODEL | {"displayNam": "x"}}, "Unknown name \"displayNam\" at 'model'"),
        ({"model": MODEL, "modelID": "x"}, 'Unknown name "modelID"'),
        ({"model": MODEL | {"displayName": 3}}, "displayName"),
        ({"model": {"containerSpec": MODEL["containerSpec"]}}, "not set: model.display_name"),
        (
            {"model": MODEL | {"containerSpec": {"ports": []}}},
            "not set: model.container_spec.image_uri",
        ),
        ({}, "model"),
        ({"model": MODEL, "modelId": "Digits!"}, "Digits!"),
        ({"model": MODEL | {"labels": {"A B": "c"}}}, "Invalid label"),
    ],
)
def test_an_upload_that_is_not_as_googles_types_have_it_is_refused(
    call: Call, content: Any, said: str
) -> None:
    with pytest.raises(Error) as error:
        call("POST", f"{PARENT}/models:upload", content)
    assert "400 INVALID_ARGUMENT" in str(error.value)
    assert said in str(error.value)


@pytest.mark.parametrize(
    ("deployed", "split", "said"),
    [
        (
            {"dedicatedResources": {"machineSpec": {"machineType": "e2-standard-2"}}},
            {},
            "not set: deployed_model.dedicated_resources.min_replica_count",
        ),
        ({}, {}, "dedicated_resources"),
        ({"dedicatedResources": MACHINE}, {"0": 90}, "sum to 100"),
        ({"dedicatedResources": MACHINE}, {"0": 50, "77": 50}, "77"),
        (
            {"dedicatedResources": MACHINE | {"machineSpec": {"machineTypo": "x"}}},
            {},
            "machineTypo",
        ),
    ],
)
def test_a_deployment_that_is_not_as_google_has_it_is_refused(
    call: Call, deployed: Any, split: Any, said: str
) -> None:
    call("POST", f"{PARENT}/models:upload", {"model": MODEL, "modelId": "digits"})
    call("POST", f"{PARENT}/endpoints?endpointId=e", {"displayName": "e"})
    whole = {"model": f"{PARENT}/models/digits"} | deployed
    with pytest.raises(Error) as error:
        call(
            "POST",
            f"{PARENT}/endpoints/e:deployModel",
            {"deployedModel": whole, "trafficSplit": split},
        )
    assert said in str(error.value)


@pytest.mark.parametrize(
    ("verb", "path", "said"),
    [
        ("GET", "models/nothing", "404 NOT_FOUND"),
        ("GET", "endpoints/nothing", "404 NOT_FOUND"),
        ("POST", "endpoints/nothing:predict", "404 NOT_FOUND"),
        ("DELETE", "endpoints/nothing", "404 NOT_FOUND"),
        ("GET", "endpoints?pageSise=3", 'Unknown name "pageSise"'),
        ("POST", "models:uplaod", "404 NOT_FOUND: Google publishes no method"),
        ("POST", "models/m:export", "501 UNIMPLEMENTED: the rehearsal does not do ExportModel"),
    ],
)
def test_what_is_not_there_is_refused(call: Call, verb: str, path: str, said: str) -> None:
    content: Any = {"instances": [1]} if path.endswith("predict") else {}
    with pytest.raises(Error, match=said):
        call(verb, f"{PARENT}/{path}", None if verb == "GET" else content)


def asked(call: Call, endpoint: str, name: str) -> Any:
    return call("POST", f"{endpoint}:predict", {"instances": [{"environment": name}]})[
        "predictions"
    ][0]


def test_the_container_gets_vertex_ais_environment(call: Call, endpoint: str) -> None:
    found = call("GET", endpoint)
    number = found["deployedModels"][0]["id"]
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
    }
    assert {name: asked(call, endpoint, name) for name in expected} == expected
    assert asked(call, endpoint, "AIP_PROJECT_NUMBER").isdigit()


def test_a_prediction_names_who_made_it(call: Call, endpoint: str) -> None:
    answer = call("POST", f"{endpoint}:predict", {"instances": ["a", 2], "parameters": {"k": 1}})
    assert answer["predictions"] == ["a", 2]
    assert answer["deployedModelId"] == call("GET", endpoint)["deployedModels"][0]["id"]
    assert answer["modelVersionId"] == "1"
    assert answer["model"].endswith("/models/digits")


def test_requests_and_answers_have_their_limits(call: Call, endpoint: str) -> None:
    assert call("POST", f"{endpoint}:predict", {"instances": ["x" * 1_500_000]})
    with pytest.raises(
        Error, match=r"400 INVALID_ARGUMENT: Request payload size exceeds the limit: 1572864"
    ):
        call("POST", f"{endpoint}:predict", {"instances": ["x" * 1_600_000]})
    with pytest.raises(Error, match="Response size exceeds the limit"):
        call("POST", f"{endpoint}:predict", {"instances": [{"bytes": 1_600_000}]})
    with pytest.raises(Error, match="504 DEADLINE_EXCEEDED"):
        call("POST", f"{endpoint}:predict", {"instances": [{"seconds": 3}]})
    with pytest.raises(Error, match=r'400 INVALID_ARGUMENT: .*Unknown name "instance"'):
        call("POST", f"{endpoint}:predict", {"instance": [1]})
    with pytest.raises(Error, match=r"400 INVALID_ARGUMENT: .*instances"):
        call("POST", f"{endpoint}:predict", {})


def test_an_endpoint_with_something_deployed_is_not_deleted_nor_its_model(
    call: Call, endpoint: str
) -> None:
    for resource in (endpoint, f"{PARENT}/models/digits"):
        with pytest.raises(Error, match=r"400 FAILED_PRECONDITION|9: "):
            call("DELETE", resource)
    number = call("GET", endpoint)["deployedModels"][0]["id"]
    call("POST", f"{endpoint}:undeployModel", {"deployedModelId": number})
    with pytest.raises(Error, match="no deployed model"):
        call("POST", f"{endpoint}:predict", {"instances": [1]})
    call("DELETE", endpoint)
    call("DELETE", f"{PARENT}/models/digits")


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


def test_a_container_that_dies_is_started_again(call: Call, endpoint: str) -> None:
    with pytest.raises(Error, match="503 UNAVAILABLE"):
        call("POST", f"{endpoint}:predict", {"instances": [{"exit": True}]})
    until = time.monotonic() + 60
    while True:
        try:
            assert call("POST", f"{endpoint}:predict", {"instances": [1]})["predictions"] == [1]
            break
        except Error:
            assert time.monotonic() < until, "it was never started again"
            time.sleep(POLL_S)


def test_two_who_change_an_endpoint_at_once_do_not_undo_each_other(
    call: Call, endpoint: str
) -> None:
    etag = call("GET", endpoint)["etag"]
    call("PATCH", f"{endpoint}?updateMask=labels", {"labels": {"a": "1"}, "etag": etag})
    with pytest.raises(Error, match="409 ABORTED"):
        call("PATCH", f"{endpoint}?updateMask=labels", {"labels": {"a": "2"}, "etag": etag})


def test_nothing_is_left_running(call: Call, endpoint: str, tiny: str) -> None:
    number = call("GET", endpoint)["deployedModels"][0]["id"]
    running = ("ps", "--quiet", "--filter", f"ancestor={tiny}")
    assert Docker(DOCKER)(*running)
    call("POST", f"{endpoint}:undeployModel", {"deployedModelId": number})
    assert not Docker(DOCKER)(*running)


def test_a_build_takes_the_substitutions_that_the_rehearsal_has_for_it(
    call: Call, empty: Stage, monkeypatch: pytest.MonkeyPatch
) -> None:
    rules = replace(empty.world.rules, substitutions={"_TESTS": "few"})
    monkeypatch.setattr(empty.world, "rules", rules)
    python = {"name": f"{TINY}:1", "entrypoint": "/opt/venv/bin/python"}
    steps = [python | {"args": ["-c", "assert '$_TESTS' == 'few'"]}]
    build = {"steps": steps, "substitutions": {"_TESTS": "all"}}
    assert call("POST", f"{PARENT}/builds", build)["status"] == "SUCCESS"
    monkeypatch.undo()
    with pytest.raises(Error, match="build step 0"):
        call("POST", f"{PARENT}/builds", build)
