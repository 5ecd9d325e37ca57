"""The emulator is as strict as Google about types, limits, traffic splits and health. Requests are plain HTTP."""

import re
import time
from typing import Any

import pytest
import requests

from contract.docker import Docker
from emulator.__main__ import parse_arguments
from emulator.server import FAULTS, OLD_FAULTS
from emulator.shutdown import remove_all
from emulator.stack import Stack
from emulator.state import project_number
from emulator.walkthrough import StepFailedError, Walkthrough
from project.model_folder import find_model
from tests.cloud.conftest import MACHINE, MODEL, PARENT, PROJECT, TINY, Call, GoogleError
from tests.container.conftest import DOCKER
from tests.http import wait_for

UPLOAD, DEPLOY = "POST models:upload", "POST endpoints/e:deployModel"
RESOURCES = {"dedicatedResources": MACHINE}


def deploy_request(deployed: Any, split: Any = None) -> Any:
    model = {"model": f"{PARENT}/models/toy"}
    return {"deployedModel": model | deployed, "trafficSplit": split or {}}


@pytest.mark.parametrize(
    ("line", "content", "message"),
    [
        (UPLOAD, {"model": MODEL | {"displayNam": "x"}}, "Unknown name \"displayNam\" at 'model'"),
        (UPLOAD, {"model": MODEL, "modelID": "x"}, 'Unknown name "modelID"'),
        (UPLOAD, {"model": MODEL | {"displayName": 3}}, "400 INVALID_ARGUMENT: .*displayName"),
        (UPLOAD, {"model": {"containerSpec": {}}}, "not set: model.display_name"),
        (UPLOAD, {"model": MODEL | {"containerSpec": {"ports": []}}}, "container_spec.image_uri"),
        (UPLOAD, {}, "400 INVALID_ARGUMENT: .*model"),
        (UPLOAD, {"model": MODEL, "modelId": "Toy!"}, "400 INVALID_ARGUMENT: .*Toy!"),
        (UPLOAD, {"model": MODEL | {"labels": {"A B": "c"}}}, "Invalid label"),
        (
            DEPLOY,
            deploy_request(
                {"dedicatedResources": {"machineSpec": {"machineType": "e2-standard-2"}}}
            ),
            "not set: deployed_model.dedicated_resources.min_replica_count",
        ),
        (DEPLOY, deploy_request({}), "dedicated_resources"),
        (DEPLOY, deploy_request(RESOURCES, {"0": 90}), "sum to 100"),
        (DEPLOY, deploy_request(RESOURCES, {"0": 50, "77": 50}), "77"),
        (DEPLOY, deploy_request({"dedicatedResources": {"machineTypo": "x"}}), "machineTypo"),
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
def test_invalid_requests_get_googles_errors(
    call: Call, line: str, content: Any, message: str
) -> None:
    if line == DEPLOY:
        call("POST", f"{PARENT}/models:upload", {"model": MODEL, "modelId": "toy"})
        call("POST", f"{PARENT}/endpoints?endpointId=e", {"displayName": "e"})
    verb, path = line.split()
    with pytest.raises(GoogleError, match=message):
        call(verb, f"{PARENT}/{path}", content)


def test_container_gets_the_variables_of_vertex_ai(call: Call, endpoint: str) -> None:
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
    request = {"instances": [{"environment": name} for name in expected]}
    values = call("POST", f"{endpoint}:predict", request)["predictions"]
    assert dict(zip(expected, values, strict=True)) == expected


def test_predictions_are_limited_in_size_and_time(call: Call, endpoint: str) -> None:
    assert call("POST", f"{endpoint}:predict", {"instances": ["x" * 1_500_000]})
    for content, message in (
        ({"instances": ["x" * 1_600_000]}, "400 .*Request payload size exceeds the limit: 1572864"),
        ({"instances": [{"bytes": 1_600_000}]}, "Response size exceeds the limit"),
        ({"instances": [{"seconds": 3}]}, "504 DEADLINE_EXCEEDED"),
        ({"instance": [1]}, '400 INVALID_ARGUMENT: .*Unknown name "instance"'),
        ({}, "400 INVALID_ARGUMENT: .*instances"),
    ):
        with pytest.raises(GoogleError, match=message):
            call("POST", f"{endpoint}:predict", content)


def test_traffic_split_is_exact_over_100_requests(call: Call, endpoint: str) -> None:
    deployed = {"model": f"{PARENT}/models/toy@1", "dedicatedResources": MACHINE}
    first = call("GET", endpoint)["deployedModels"][0]["id"]
    split = {"0": 30, first: 70}
    call("POST", f"{endpoint}:deployModel", {"deployedModel": deployed, "trafficSplit": split})
    deployed_ids = [
        call("POST", f"{endpoint}:predict", {"instances": [1]})["deployedModelId"]
        for _ in range(100)
    ]
    assert deployed_ids.count(first) == 70
    with pytest.raises(GoogleError, match="traffic"):
        call("POST", f"{endpoint}:undeployModel", {"deployedModelId": first})


def test_container_that_exits_is_restarted(call: Call, endpoint: str, stack: Stack) -> None:
    with pytest.raises(GoogleError, match="503 UNAVAILABLE"):
        call("POST", f"{endpoint}:predict", {"instances": [{"exit": True}]})
    predict = f"{stack.url}/v1/{endpoint}:predict"
    wait_for(
        lambda: requests.post(predict, json={"instances": [1]}, timeout=60).ok,
        60,
        "the container to restart",
    )


def test_containers_that_the_emulator_removes_are_no_longer_watched(
    endpoint: str, stack: Stack
) -> None:
    pools, config = stack.state.pools, stack.state.config
    assert endpoint
    assert pools
    remove_all(stack.state)
    pools.clear()
    # A watcher that asks about a removed container fails in its thread, and so fails this test.
    time.sleep(2 * config.probe_interval_s)


def test_update_with_an_old_etag_is_aborted(call: Call, endpoint: str) -> None:
    etag = call("GET", endpoint)["etag"]
    call("PATCH", f"{endpoint}?updateMask=labels", {"labels": {"a": "1"}, "etag": etag})
    with pytest.raises(GoogleError, match="409 ABORTED"):
        call("PATCH", f"{endpoint}?updateMask=labels", {"labels": {"a": "2"}, "etag": etag})


def test_undeployed_model_gets_no_requests_and_its_container_is_removed(
    call: Call, endpoint: str, tiny: str
) -> None:
    number = call("GET", endpoint)["deployedModels"][0]["id"]
    running = ("ps", "--quiet", "--filter", f"ancestor={tiny}")
    assert Docker(DOCKER)(*running)
    call("POST", f"{endpoint}:undeployModel", {"deployedModelId": number})
    assert not Docker(DOCKER)(*running)
    with pytest.raises(GoogleError, match="no deployed model"):
        call("POST", f"{endpoint}:predict", {"instances": [1]})


def test_last_40_lines_of_a_failed_build_step_are_printed(
    call: Call, stack: Stack, capsys: pytest.CaptureFixture[str]
) -> None:
    script = "#!/bin/sh\nfor i in $(seq 50); do echo line $i; done\nexit 3\n"
    steps = [{"id": "tests", "name": f"{TINY}:1", "script": script}]
    with pytest.raises(GoogleError, match="build step 0"):
        call("POST", f"{PARENT}/builds", {"steps": steps})
    with pytest.raises(StepFailedError, match="false: exit code 1"):
        Walkthrough(stack, find_model("tests/toy")).run("false")
    output = capsys.readouterr().out
    assert "Build step tests failed" in output
    assert [int(number) for number in re.findall(r"\| line (\d+)\n", output)] == [*range(11, 51)]


def test_the_old_path_of_faults_works_with_a_warning(
    call: Call, stack: Stack, caplog: pytest.LogCaptureFixture
) -> None:
    fault = {"kind": "refused", "rpc": "ListModels", "detail": "INTERNAL broken"}
    requests.post(f"{stack.url}{OLD_FAULTS}", json=fault, timeout=60).raise_for_status()
    with pytest.raises(GoogleError, match="500 INTERNAL: broken"):
        call("GET", f"{PARENT}/models")
    assert f"{OLD_FAULTS} is deprecated: use {FAULTS}" in caplog.text


def test_the_old_name_of_the_option_ready_timeout_works_with_a_warning(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr("sys.argv", ["emulator", "--patience", "5"])
    assert parse_arguments().ready_timeout == 5
    assert "--patience is deprecated: use --ready-timeout" in capsys.readouterr().err
