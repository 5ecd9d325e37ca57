"""The emulator refuses what Google refuses, and plays the details of what it supports. Requests are plain HTTP."""

import os
import signal
import socket
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pytest
import requests

from contract.docker import Docker
from emulator import artifacts
from emulator.config import EmulatorConfig
from emulator.env import FILE, FOLDER
from emulator.images import image_names
from emulator.stack import PortInUseError, Stack, running
from tests.cloud.conftest import MACHINE, MODEL, PARENT, POLL_S, TINY, Call, GoogleError
from tests.cloud.test_emulator import DEPLOY, deploy_request
from tests.container.conftest import DOCKER
from tests.http import wait_for
from tests.images import ROOT
from tests.programs import run_program

BETA = f"v1beta1/{PARENT}"


def machine(name: str, **fields: Any) -> Any:
    spec: dict[str, Any] = {"machineType": name}
    if "acceleratorType" in fields:
        spec |= {"acceleratorType": fields.pop("acceleratorType"), "acceleratorCount": 1}
    return {"dedicatedResources": {"machineSpec": spec, "minReplicaCount": 1, **fields}}


@pytest.mark.parametrize(
    ("line", "content", "message"),
    [
        (DEPLOY, deploy_request(machine("e2-standard-8", maxReplicaCount=20)), "429 .*ServingCPUs"),
        (
            DEPLOY,
            deploy_request(machine("n1-standard-2", acceleratorType="NVIDIA_TESLA_T4")),
            "T4GPUs",
        ),
        (DEPLOY, deploy_request(machine("n1-highcpu-3")), '"n1-highcpu-3" is not supported'),
        (DEPLOY, deploy_request({"sharedResources": "x"}), "501 .*DeploymentResourcePool"),
        (
            "POST models:upload",
            {
                "model": {
                    "displayName": "m",
                    "containerSpec": {"imageUri": "us-docker.pkg.dev/p/r/i"},
                }
            },
            "is in us: a model in us-central1",
        ),
        ("POST endpoints", {"displayName": "e", "trafficSplit": {"7": 100}}, "do not exist: 7"),
        (
            "POST endpoints",
            {"displayName": "e", "clientConnectionConfig": {"inferenceTimeout": "5000s"}},
            "5000 s: 3600 s at most",
        ),
        ("POST deploymentResourcePools", {}, "501 .*DeploymentResourcePoolService"),
        ("GET tensorboards", None, "501 .*ListTensorboards of TensorboardService"),
        ("POST endpoints/e:serverStreamingPredict", {}, "501 .*ServerStreamingPredict"),
        ("GET endpoints?filter=colour=red", None, "400 .*field colour is not supported"),
        ("GET endpoints?orderBy=name", None, "400 .*supported: display_name"),
    ],
)
def test_requests_that_google_or_the_emulator_refuses_get_the_reason(
    call: Call,
    line: str,
    content: Any,
    message: str,
) -> None:
    if line == DEPLOY:
        call("POST", f"{PARENT}/models:upload", {"model": MODEL, "modelId": "toy"})
        call("POST", f"{PARENT}/endpoints?endpointId=e", {"displayName": "e"})
    verb, path = line.split(" ", 1)
    with pytest.raises(GoogleError, match=message):
        call(verb, f"{PARENT}/{path}", content)


def test_deployed_model_is_changed_within_the_quota(call: Call, endpoint: str) -> None:
    (deployed,) = call("GET", endpoint)["deployedModels"]
    many = {"id": deployed["id"], "dedicatedResources": {"maxReplicaCount": 100}}
    mask = "dedicatedResources.maxReplicaCount"
    with pytest.raises(GoogleError, match=r"429 RESOURCE_EXHAUSTED: .*ServingCPUs"):
        call("POST", f"{endpoint}:mutateDeployedModel", {"deployedModel": many, "updateMask": mask})
    change = {"id": deployed["id"], "disableContainerLogging": True}
    content = {"deployedModel": change, "updateMask": "disableContainerLogging"}
    call("POST", f"{endpoint}:mutateDeployedModel", content)
    (changed,) = call("GET", endpoint)["deployedModels"]
    assert changed == deployed | {"disableContainerLogging": True}
    logging = {"enabled": True, "samplingRate": 0.5, "bigqueryDestination": {"outputUri": "bq://p"}}
    content = {"predictRequestResponseLoggingConfig": logging}
    call("PATCH", f"{endpoint}?updateMask=predictRequestResponseLoggingConfig", content)
    assert call("GET", endpoint)["predictRequestResponseLoggingConfig"] == logging


def test_container_response_must_be_a_predict_response(call: Call, endpoint: str) -> None:
    for body in ('{"outputs": [1]}', '{"predictions": "x"}', '{"predictions": [NaN]}', "[1, 2]"):
        with pytest.raises(GoogleError, match=r"400 .*Invalid response from prediction server"):
            call("POST", f"{endpoint}:predict", {"instances": [{"body": body}]})


def test_headers_of_raw_requests_and_of_their_responses_pass(endpoint: str, stack: Stack) -> None:
    headers = {"Content-Type": "application/json", "X-Trace": "abc", "Authorization": "Bearer x"}
    url = f"{stack.url}/v1/{endpoint}:rawPredict"
    for name, expected in (("X-Trace", "abc"), ("Authorization", None)):
        content = {"instances": [{"header": name}]}
        response = requests.post(url, json=content, headers=headers, timeout=30)
        assert response.json() == {"predictions": [expected]}
        assert response.headers["X-Answer"] == "sent"


def test_endpoint_that_is_peered_with_a_network_holds_one_model(call: Call) -> None:
    call("POST", f"{PARENT}/models:upload", {"model": MODEL, "modelId": "toy"})
    network = {"displayName": "e", "network": "projects/1/global/networks/n"}
    call("POST", f"{PARENT}/endpoints?endpointId=e", network)
    deployed = deploy_request({"dedicatedResources": MACHINE}, {"0": 100})
    call("POST", f"{PARENT}/endpoints/e:deployModel", deployed)
    (private,) = call("GET", f"{PARENT}/endpoints/e")["deployedModels"]
    url = private["privateEndpoints"]["predictHttpUri"]
    assert requests.post(url, json={"instances": [1]}, timeout=30).json() == {"predictions": [1]}
    with pytest.raises(GoogleError, match="from the network projects/1/global/networks/n only"):
        call("POST", f"{PARENT}/endpoints/e:predict", {"instances": [1]})
    with pytest.raises(GoogleError, match="one deployed model only"):
        call("POST", f"{PARENT}/endpoints/e:deployModel", deployed)


def test_private_endpoint_is_not_reached_at_the_shared_domain(call: Call, stack: Stack) -> None:
    call("POST", f"{PARENT}/models:upload", {"model": MODEL, "modelId": "toy"})
    config = {"enablePrivateServiceConnect": True, "projectAllowlist": ["p"]}
    private = {"displayName": "e", "privateServiceConnectConfig": config}
    call("POST", f"{PARENT}/endpoints?endpointId=e", private)
    deployed = deploy_request({"dedicatedResources": MACHINE}, {"0": 100})
    call("POST", f"{PARENT}/endpoints/e:deployModel", deployed)
    found = call("GET", f"{PARENT}/endpoints/e")["privateServiceConnectConfig"]
    assert found["serviceAttachment"].startswith("projects/")
    with pytest.raises(GoogleError, match="Private Service Connect only"):
        call("POST", f"{PARENT}/endpoints/e:predict", {"instances": [1]})
    url = f"https://{stack.state.dedicated_host}/v1/{PARENT}/endpoints/e:predict"
    bundle = stack.environment("p")["REQUESTS_CA_BUNDLE"]
    assert requests.post(url, json={"instances": [1]}, verify=bundle, timeout=30).json()[
        "predictions"
    ] == [1]


def test_models_are_copied_and_their_versions_updated(call: Call) -> None:
    upload = {"model": MODEL | {"labels": {"a": "1"}}, "modelId": "toy"}
    call("POST", f"{PARENT}/models:upload", upload)
    call("POST", f"{PARENT}/models:upload", {"model": MODEL, "parentModel": f"{PARENT}/models/toy"})
    name = f"{PARENT}/models/toy"
    update = {"name": f"{name}@2", "versionDescription": "second", "labels": {"b": "2"}}
    call("PATCH", f"{name}@2?updateMask=versionDescription,labels", update)
    first, second = call("GET", f"{name}@1"), call("GET", f"{name}@2")
    assert ("versionDescription" not in first, first["labels"]) == (True, {"a": "1"})
    assert (second["versionDescription"], second["labels"]) == ("second", {"b": "2"})
    call("PATCH", f"{name}?updateMask=displayName", {"name": name, "displayName": "new"})
    assert {call("GET", f"{name}@{n}")["displayName"] for n in "12"} == {"new"}
    with pytest.raises(GoogleError, match="FAILED_PRECONDITION: Field version_description"):
        call("PATCH", f"{name}?updateMask=versionDescription", update | {"name": name})
    stale = {"name": name, "description": "x", "etag": first["etag"]}
    with pytest.raises(GoogleError, match="409 ABORTED"):
        call("PATCH", f"{name}?updateMask=description", stale)
    key = {"kmsKeyName": "projects/p/locations/r/keyRings/k/cryptoKeys/c"}
    elsewhere = PARENT.replace("us-central1", "europe-west4")
    copy = {"sourceModel": f"{name}@1", "modelId": "copy", "encryptionSpec": key}
    assert call("POST", f"{elsewhere}/models:copy", copy)["modelVersionId"] == "1"
    assert call("GET", f"{elsewhere}/models/copy")["encryptionSpec"] == key
    with pytest.raises(GoogleError, match="409 ALREADY_EXISTS"):
        call("POST", f"{elsewhere}/models:copy", copy)
    page = call("GET", f"{name}/operations?pageSize=1")
    assert (len(page["operations"]), page["nextPageToken"]) == (1, "1")


def send_beta(stack: Stack, verb: str, path: str, content: Any = None) -> Any:
    """Send a request to v1beta1, wait for its operation, and return the response."""
    result = requests.request(verb, f"{stack.url}/{path}", json=content, timeout=60).json()
    while "/operations/" in result.get("name", "") and not result.get("done"):
        time.sleep(POLL_S)
        result = requests.get(f"{stack.url}/v1beta1/{result['name']}", timeout=60).json()
    assert "error" not in result, result
    return result.get("response", result)


def test_model_without_traffic_is_scaled_to_zero_and_back(call: Call, stack: Stack) -> None:
    call("POST", f"{PARENT}/models:upload", {"model": MODEL, "modelId": "toy"})
    call("POST", f"{PARENT}/endpoints?endpointId=e", {"displayName": "e"})
    periods = {"idleScaledownPeriod": "300s", "minScaleupPeriod": "300s"}
    resources = {**machine("e2-standard-2")["dedicatedResources"], "minReplicaCount": 0}
    resources |= {"initialReplicaCount": 1, "maxReplicaCount": 1, "scaleToZeroSpec": periods}
    content = deploy_request({"dedicatedResources": resources}, {"0": 100})
    deployed = send_beta(stack, "POST", f"{BETA}/endpoints/e:deployModel", content)["deployedModel"]
    assert deployed["dedicatedResources"]["scaleToZeroSpec"] == periods
    (pool,) = stack.state.pools.values()
    wait_for(lambda: not pool.replicas, 30, "the replica to stop")
    predict = f"{stack.url}/v1/{PARENT}/endpoints/e:predict"
    response = requests.post(predict, json={"instances": [1]}, timeout=60)
    assert response.status_code == 429
    assert "not yet ready" in response.json()["error"]["message"]
    wait_for(
        lambda: requests.post(predict, json={"instances": [1]}, timeout=60).ok,
        30,
        "the replica to start",
    )


def test_rolling_deployment_replaces_a_version_and_takes_over_its_traffic(
    call: Call,
    endpoint: str,
    stack: Stack,
) -> None:
    call("POST", f"{PARENT}/models:upload", {"model": MODEL, "parentModel": f"{PARENT}/models/toy"})
    (old,) = call("GET", endpoint)["deployedModels"]
    rollout = {
        "previousDeployedModel": old["id"],
        "maxSurgeReplicas": 1,
        "maxUnavailableReplicas": 0,
    }
    content = {"deployedModel": {"model": f"{PARENT}/models/toy@2", "rolloutOptions": rollout}}
    send_beta(stack, "POST", f"v1beta1/{endpoint}:deployModel", content)
    found = send_beta(stack, "GET", f"v1beta1/{endpoint}")
    (new,) = found["deployedModels"]
    assert (new["modelVersionId"], new["rolloutOptions"]["revisionNumber"]) == ("2", 1)
    assert new["dedicatedResources"] == old["dedicatedResources"]
    assert found["trafficSplit"] == {new["id"]: 100}
    assert call("POST", f"{endpoint}:predict", {"instances": [1]})["deployedModelId"] == new["id"]


def test_batch_prediction_reads_csv_and_file_lists_and_writes_keys_and_errors(
    call: Call,
    stack: Stack,
) -> None:
    call("POST", f"{PARENT}/models:upload", {"model": MODEL, "modelId": "toy"})
    rows = 'id,age,"name"\n1,40,"x"\n2,50.5,"y"\n'
    with artifacts.storage_client(stack.state.config) as storage:
        bucket = storage.create_bucket("batch-formats")
        for name, text in (
            ("in.csv", rows),
            ("a.bin", "hello"),
            ("list.txt", "gs://batch-formats/a.bin\n"),
            ("bad.jsonl", '{"invalid": true}\n'),
        ):
            bucket.blob(name).upload_from_string(text)

    def run(file: str, format_: str, config: Any) -> tuple[Any, list[str]]:
        content = {
            "displayName": "j",
            "model": f"{PARENT}/models/toy",
            "inputConfig": {
                "instancesFormat": format_,
                "gcsSource": {"uris": [f"gs://batch-formats/{file}"]},
            },
            "outputConfig": {
                "predictionsFormat": "jsonl",
                "gcsDestination": {"outputUriPrefix": f"gs://batch-formats/{file}-out"},
            },
            "dedicatedResources": {"machineSpec": {"machineType": "e2-standard-2"}},
            "instanceConfig": config,
        }
        name = call("POST", f"{PARENT}/batchPredictionJobs", content)["name"]
        wait_for(lambda: "endTime" in call("GET", name), 60, "the job to end")
        job = call("GET", name)
        with artifacts.storage_client(stack.state.config) as storage:
            blobs = storage.list_blobs("batch-formats", prefix=f"{file}-out/")
            return job, [line for blob in blobs for line in blob.download_as_text().splitlines()]

    job, lines = run("in.csv", "csv", {"instanceType": "object", "keyField": "id"})
    assert job["state"] == "JOB_STATE_SUCCEEDED"
    folder = job["outputInfo"]["gcsOutputDirectory"].rpartition("/")[2]
    assert folder.startswith("prediction-toy-20")
    assert folder.endswith("Z")
    assert lines == ['{"key": 1.0, "prediction": ""}', '{"key": 2.0, "prediction": ""}']
    _, lines = run("list.txt", "file-list", {})
    assert lines == ['{"instance": {"b64": "aGVsbG8="}, "prediction": ""}']
    job, lines = run("bad.jsonl", "jsonl", {})
    assert job["completionStats"]["failedCount"] == "1"
    (line,) = lines
    assert '"instance": {"invalid": true}, "error": {"code": 3, "message": ' in line


def test_cancelled_batch_prediction_job_is_cancelling_first(call: Call, stack: Stack) -> None:
    call("POST", f"{PARENT}/models:upload", {"model": MODEL, "modelId": "toy"})
    with artifacts.storage_client(stack.state.config) as storage:
        storage.create_bucket("batch-cancel").blob("x").upload_from_string('{"seconds": 3}\n')
    content: dict[str, Any] = {
        "displayName": "j",
        "model": f"{PARENT}/models/toy",
        "inputConfig": {"instancesFormat": "jsonl", "gcsSource": {"uris": ["gs://batch-cancel/x"]}},
        "outputConfig": {
            "predictionsFormat": "jsonl",
            "gcsDestination": {"outputUriPrefix": "gs://batch-cancel/out"},
        },
        "dedicatedResources": {"machineSpec": {"machineType": "e2-standard-2"}},
    }
    resources = content["dedicatedResources"] | {"startingReplicaCount": 5, "maxReplicaCount": 2}
    with pytest.raises(GoogleError, match="starting_replica_count must not be greater"):
        call("POST", f"{PARENT}/batchPredictionJobs", content | {"dedicatedResources": resources})
    name = call("POST", f"{PARENT}/batchPredictionJobs", content)["name"]
    wait_for(lambda: call("GET", name)["state"] == "JOB_STATE_RUNNING", 30, "the job to start")
    call("POST", f"{name}:cancel", {})
    assert call("GET", name)["state"] == "JOB_STATE_CANCELLING"
    url = f"{stack.url}/v1/{name}"
    wait_for(
        lambda: requests.get(url, timeout=30).json()["state"] == "JOB_STATE_CANCELLED",
        30,
        "the job to end",
    )


def test_build_can_be_cancelled_and_its_log_read(call: Call, stack: Stack) -> None:
    steps = [{"name": f"{TINY}:1", "script": "#!/bin/sh\necho begun\nsleep 60\n"}]
    started = requests.post(
        f"{stack.url}/v1/{PARENT}/builds", json={"steps": steps}, timeout=60
    ).json()
    build = started["metadata"]["build"]
    assert build["logsBucket"].endswith(".cloudbuild-logs.googleusercontent.com")
    name = build["name"]
    wait_for(lambda: call("GET", name)["status"] == "WORKING", 30, "the build to start")
    project, build_id = name.split("/")[1], name.rsplit("/", 1)[1]
    with pytest.raises(GoogleError, match="404 NOT_FOUND: Build not found"):
        call("GET", f"projects/{project}/builds/{build_id}")
    assert call("POST", f"{name}:cancel", {})["status"] == "CANCELLED"
    wait_for(lambda: "finishTime" in call("GET", name), 30, "the build to end")
    assert call("GET", name)["status"] == "CANCELLED"
    with pytest.raises(GoogleError, match="cannot cancel a build that has finished"):
        call("POST", f"{name}:cancel", {})
    assert requests.get(build["logUrl"], timeout=30).status_code == 200


def test_health_probe_of_a_model_can_be_a_command(call: Call) -> None:
    spec = MODEL["containerSpec"] | {"deploymentTimeout": "4s"}
    for command, is_healthy in (("true", True), ("false", False)):
        probe = {"healthProbe": {"exec": {"command": [command]}}}
        upload = {"model": MODEL | {"containerSpec": spec | probe}, "modelId": command}
        call("POST", f"{PARENT}/models:upload", upload)
        call("POST", f"{PARENT}/endpoints?endpointId={command}", {"displayName": "e"})
        deployed = {"model": f"{PARENT}/models/{command}", "dedicatedResources": MACHINE}
        content = {"deployedModel": deployed}
        if is_healthy:
            call("POST", f"{PARENT}/endpoints/{command}:deployModel", content)
            continue
        with pytest.raises(GoogleError, match="Model server never became ready"):
            call("POST", f"{PARENT}/endpoints/{command}:deployModel", content)


def test_port_in_use_is_an_error_that_names_it() -> None:
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        port = taken.getsockname()[1]
        with (
            pytest.raises(
                PortInUseError, match=f"port {port} of 127.0.0.1: .*choose .* with --port"
            ),
            running(EmulatorConfig(docker=DOCKER), port=port),
        ):
            pass


def test_variables_are_not_printed_without_an_emulator(tmp_path: Path) -> None:
    command = [sys.executable, "-m", "emulator.env"]
    done = run_program(command, {"PYTHONPATH": str(ROOT)}, cwd=tmp_path)
    assert (done.code, done.out) == (1, "")
    assert "no emulator is running here; start it with: make emulator" in done.err


@pytest.mark.full
def test_script_with_the_sdk_is_directed_to_the_emulator(stack: Stack, tmp_path: Path) -> None:
    script = tmp_path / "script.py"
    script.write_text(
        "import sys\nfrom google.cloud import aiplatform\n"
        "aiplatform.init(location='europe-west4')\n"
        "print(aiplatform.Endpoint.create(sys.argv[1]).resource_name)\n"
    )
    command = [sys.executable, "-m", "emulator.sdk", str(script), "e"]
    done = run_program(command, stack.environment("p") | {"PYTHONPATH": str(ROOT)})
    assert done.code == 0, done.err
    (name,) = stack.state.endpoints
    assert done.out.strip().endswith(name)
    assert "/locations/europe-west4/" in name


@pytest.mark.full
def test_emulator_that_is_ended_leaves_no_file_image_or_container(
    tiny: str, tmp_path: Path
) -> None:
    docker = Docker(DOCKER)
    before = image_names(docker)
    scratch = tmp_path / "tmp"
    scratch.mkdir()
    env = {**os.environ, "PYTHONPATH": str(ROOT), "TMPDIR": str(scratch)}
    command = [sys.executable, "-m", "emulator", "--port", "0", "--docker", DOCKER]
    with subprocess.Popen(command, cwd=tmp_path, env=env, stdout=subprocess.PIPE) as process:
        try:
            wait_for((tmp_path / FILE).exists, 60, "the emulator to start")
            lines = (tmp_path / FILE).read_text().splitlines()
            (url,) = [line.partition("=")[2] for line in lines if "DEPLOY_API_ENDPOINT" in line]
            sick = {"name": "FAULT", "value": "sick"}
            spec = MODEL["containerSpec"] | {"imageUri": tiny, "env": [sick]}
            model = {"displayName": "m", "containerSpec": spec}
            script = "docker build --tag emulator-left:1 - <<END\nFROM debian:bookworm-slim\nEND\nsleep 60\n"
            steps = [{"name": "gcr.io/cloud-builders/docker", "script": f"#!/bin/sh\n{script}"}]
            for path, content in (
                ("models:upload", {"model": model, "modelId": "m"}),
                ("endpoints?endpointId=e", {"displayName": "e"}),
                ("builds", {"steps": steps}),
            ):
                requests.post(
                    f"{url}/v1/{PARENT}/{path}", json=content, timeout=60
                ).raise_for_status()
            deployed = {"model": f"{PARENT}/models/m", "dedicatedResources": MACHINE}
            deploy = f"{url}/v1/{PARENT}/endpoints/e:deployModel"
            wait_for(
                lambda: requests.post(deploy, json={"deployedModel": deployed}, timeout=60).ok,
                30,
                "the model to be uploaded",
            )
            containers = ("ps", "--quiet", "--filter", f"label=emulator={process.pid}")
            wait_for(lambda: len(docker(*containers).split()) == 2, 60, "both containers to run")
            wait_for(lambda: "emulator-left:1" in image_names(docker), 60, "the image to be built")
            process.send_signal(signal.SIGTERM)
            assert process.wait(90) == 0
        finally:
            process.kill()
    assert not docker("ps", "--all", "--quiet", "--filter", f"label=emulator={process.pid}")
    assert image_names(docker) - before == set()
    assert list(scratch.iterdir()) == []
    assert not (tmp_path / FOLDER).exists()
