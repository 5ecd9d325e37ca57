"""The real gcloud and the real SDK with the emulator: what `make e2e` does not cover."""

import json
import os
import shlex
import time
from pathlib import Path
from typing import Any

import pytest
import requests
from google.api_core import exceptions
from google.auth.credentials import AnonymousCredentials
from google.cloud import aiplatform
from google.cloud.aiplatform import initializer

from contract.docker import Docker
from emulator import artifacts
from emulator.sdk import init
from emulator.stack import Stack
from tests.cloud.conftest import PROJECT, REGION, TINY, Run
from tests.container.conftest import DOCKER
from tests.http import wait_for

UPLOAD = (
    "ai models upload --display-name=m --container-ports=8080 --container-health-route=/h "
    "--container-predict-route=/p --container-image-uri="
)
MACHINE = {"machine_type": "e2-standard-2", "min_replica_count": 1, "max_replica_count": 1}


def succeed(run: Run, line: str) -> str:
    """Run a command that must succeed; return its output."""
    result = run(line)
    assert result.code == 0, f"{line}\n{result.err}"
    return str(result.out).strip()


@pytest.mark.full
def test_gcloud_manages_versions_and_aliases(gcloud: Run) -> None:
    succeed(gcloud, f"{UPLOAD}{TINY}:1 --model-id=m --version-aliases=prod --labels=team=x")
    succeed(
        gcloud, f"{UPLOAD}{TINY}:2 --parent-model=projects/{PROJECT}/locations/{REGION}/models/m"
    )
    assert succeed(gcloud, "ai models describe m@prod --format=value(versionId)") == "1"
    listed = succeed(gcloud, "ai models list-version m --format=value(versionId)").split()
    assert sorted(listed) == ["1", "2"]
    assert (
        succeed(gcloud, "ai models list --filter=labels.team=x --format=value(displayName)") == "m"
    )
    result = gcloud("ai models delete-version m@1")
    assert result.code == 1
    assert "default version" in result.err
    succeed(gcloud, "ai models delete-version m@2")


@pytest.mark.full
def test_gcloud_deploys_splits_traffic_and_updates_an_endpoint(gcloud: Run) -> None:
    succeed(gcloud, f"{UPLOAD}{TINY}:1 --model-id=m")
    succeed(gcloud, "ai endpoints create --display-name=e --endpoint-id=e --labels=a=b")
    deploy = "ai endpoints deploy-model e --model=m --display-name=d --machine-type=e2-standard-2"
    succeed(
        gcloud,
        f"{deploy} --traffic-split=0=100 --deployed-model-id=11 --autoscaling-metric-specs=cpu-usage=70",
    )
    succeed(gcloud, f"{deploy} --traffic-split=0=30,11=70 --deployed-model-id=22")
    succeed(
        gcloud,
        "ai endpoints update e --traffic-split=11=90,22=10 --update-labels=c=d --display-name=f",
    )
    endpoint = json.loads(succeed(gcloud, "ai endpoints describe e --format=json"))
    assert endpoint["trafficSplit"] == {"11": 90, "22": 10}
    assert (endpoint["labels"], endpoint["displayName"]) == ({"a": "b", "c": "d"}, "f")
    for line, message in (
        ("undeploy-model e --deployed-model-id=11", "still receives 90"),
        ("delete e", "has deployed"),
        ("describe nothing", "not found"),
    ):
        assert message in gcloud(f"ai endpoints {line}").err


@pytest.mark.full
def test_gcloud_lists_and_uploads_a_pushed_image(gcloud: Run, stack: Stack) -> None:
    succeed(
        gcloud,
        f"artifacts repositories create shown --repository-format=docker --location={REGION}",
    )
    docker = Docker(DOCKER)
    for tag in ("1", "latest"):
        name = f"{stack.registry}/{PROJECT}/shown/small:{tag}"
        docker("tag", "debian:bookworm-slim", name)
        docker("push", "--quiet", name, timeout_s=300)
    repository = f"{REGION}-docker.pkg.dev/{PROJECT}/shown"
    images = json.loads(
        succeed(gcloud, f"artifacts docker images list {repository} --include-tags --format=json")
    )
    assert [image["package"] for image in images] == [f"{repository}/small"]
    assert images[0]["version"].startswith("sha256:")
    assert set(",".join(images[0]["tags"]).replace(" ", "").split(",")) >= {"1", "latest"}
    uri = f"--container-image-uri={repository}/small:1"
    succeed(gcloud, f"ai models upload --display-name=m --model-id=pushed {uri}")
    missing = gcloud(f"ai models upload --display-name=m {uri}234")
    assert "not found" in missing.err
    succeed(gcloud, f"artifacts repositories delete shown --location={REGION} --quiet")


@pytest.mark.full
def test_gcloud_stores_large_files_and_handles_folders(gcloud: Run, tmp_path: Path) -> None:
    large = tmp_path / "large.bin"
    large.write_bytes(os.urandom(9_000_000))
    for name in ("a", "b"):
        (tmp_path / name).write_text(name)
    assert "Invalid bucket name" in gcloud("storage buckets create gs://Bad_UPPER").err
    bucket = "gs://gcloud-files"
    succeed(gcloud, f"storage buckets create {bucket} --location=europe-west4")
    described = succeed(gcloud, f"storage buckets describe {bucket} --format=value(location)")
    assert described == "EUROPE-WEST4"
    succeed(gcloud, f"storage cp {large} {bucket}/")
    succeed(gcloud, f"storage cp {bucket}/large.bin {tmp_path}/back.bin")
    assert (tmp_path / "back.bin").read_bytes() == large.read_bytes()
    succeed(gcloud, f"storage cp {tmp_path}/a {tmp_path}/b {bucket}/in/")
    succeed(gcloud, f"storage mv {bucket}/in/a {bucket}/in/c")
    assert succeed(gcloud, f"storage ls {bucket}/in/").split() == [
        f"{bucket}/in/b",
        f"{bucket}/in/c",
    ]
    succeed(gcloud, f"storage rm -r {bucket}")


@pytest.mark.full
def test_gcloud_builds_a_folder_with_a_large_file(gcloud: Run, tmp_path: Path) -> None:
    (tmp_path / "model.bin").write_bytes(os.urandom(20_000_000))
    step = {"name": f"{TINY}:1", "script": "#!/bin/sh\ntest $(wc -c < model.bin) = 20000000\n"}
    (tmp_path / "cloudbuild.yaml").write_text(json.dumps({"steps": [step]}))
    submit = f"builds submit {tmp_path} --config={tmp_path}/cloudbuild.yaml --region={REGION}"
    build_id = succeed(gcloud, f"{submit} --async --format=value(id)")
    describe = f"builds describe {build_id} --region={REGION} --format=value(status)"
    wait_for(lambda: succeed(gcloud, describe) not in ("QUEUED", "WORKING"), 90, "the build to end")
    assert succeed(gcloud, describe) == "SUCCESS"


@pytest.mark.full
def test_gcloud_reports_an_unsupported_method_at_once(gcloud: Run) -> None:
    start = time.monotonic()
    failed = gcloud("ai custom-jobs list")
    assert "the emulator does not support ListCustomJobs of JobService" in failed.err
    assert time.monotonic() - start < 20  # a repeated request takes 25 s or more


@pytest.fixture
def sdk(stack: Stack, monkeypatch: pytest.MonkeyPatch) -> None:
    """Direct the SDK to the emulator."""
    for name, value in stack.environment(PROJECT).items():
        monkeypatch.setenv(name, value)
    init(PROJECT, REGION)


def upload(**options: object) -> aiplatform.Model:
    """Upload the small image as a model with the SDK."""
    return aiplatform.Model.upload(
        serving_container_image_uri=f"{TINY}:1",
        serving_container_ports=[8080],
        display_name="m",
        serving_container_health_route="/h",
        serving_container_predict_route="/p",
        **options,
    )


@pytest.mark.usefixtures("sdk")
def test_sdk_manages_versions_and_aliases() -> None:
    first = upload(model_id="mm", version_aliases=["prod"], labels={"team": "x"})
    upload(parent_model=first.resource_name, is_default_version=True)
    assert aiplatform.Model("mm").version_id == "2"
    assert aiplatform.Model("mm", version="prod").version_id == "1"
    registry = aiplatform.models.ModelRegistry("mm")
    registry.add_version_aliases(["blue"], "1")
    registry.remove_version_aliases(["prod"], "1")
    assert {v.version_id: v.version_aliases for v in registry.list_versions()} == {
        "1": ["blue"],
        "2": ["default"],
    }
    registry.update_version("1", labels={"a": "b"}, version_description="first")
    assert aiplatform.Model("mm", version="1").labels == {"a": "b"}
    assert aiplatform.Model("mm", version="2").labels == {}
    registry.delete_version("1")
    with pytest.raises(exceptions.NotFound):
        _ = aiplatform.Model("mm", version="1").display_name


@pytest.mark.usefixtures("sdk")
def test_sdk_deploys_predicts_and_deletes() -> None:
    model, endpoint = upload(model_id="mm"), aiplatform.Endpoint.create("e", labels={"a": "b"})
    endpoint.deploy(model, **MACHINE)
    endpoint.deploy(model, traffic_percentage=20, **MACHINE)
    assert sorted(endpoint.traffic_split.values()) == [20, 80]
    answer = endpoint.predict(instances=["x", 3], parameters={"k": 1})
    assert answer.predictions == ["x", 3]
    assert answer.deployed_model_id in endpoint.traffic_split
    assert (answer.model_resource_name, answer.model_version_id) == (model.resource_name, "1")
    with pytest.raises(exceptions.BadRequest, match="sum to 100"):
        endpoint.update(traffic_split=dict.fromkeys(endpoint.traffic_split, 30))
    with pytest.raises(exceptions.BadRequest, match="deployed"):
        model.delete()
    with pytest.raises(exceptions.Conflict, match="already exists"):
        aiplatform.Endpoint.create("again", endpoint_id=endpoint.name)
    endpoint.update(display_name="renamed", labels={"c": "d"})
    renamed = aiplatform.Endpoint.list(filter='display_name="renamed"')
    assert [found.name for found in renamed] == [endpoint.name]
    endpoint.undeploy_all()
    endpoint.delete()
    model.delete()
    assert not aiplatform.Endpoint.list()
    assert not aiplatform.Model.list()


@pytest.mark.usefixtures("sdk")
def test_sdk_gets_each_part_of_a_stream_before_the_next_is_sent() -> None:
    endpoint = aiplatform.Endpoint.create("e", dedicated_endpoint_enabled=True)
    endpoint.deploy(upload(), **MACHINE)
    stream: Any = endpoint.stream_raw_predict(
        body=b'{"instances": ["a", "b", "c"], "parameters": {"stream": true}}',
        headers={"Content-Type": "application/json"},
    )
    for expected in (b'"a"', b'"b"', b'"c"'):
        assert next(stream) == expected
        endpoint.predict(instances=[{"acknowledge": True}], use_dedicated_endpoint=True)
    assert list(stream) == []
    raw = endpoint.raw_predict(
        body=b"\xff\xd8", headers={"Content-Type": "image/jpeg"}, use_dedicated_endpoint=True
    )
    assert raw.json() == {"type": "image/jpeg", "bytes": 2}


@pytest.mark.usefixtures("sdk")
def test_sdk_invokes_any_route_of_a_container_with_an_invoke_prefix() -> None:
    spec = {"image_uri": f"{TINY}:1", "health_route": "/h", "invoke_route_prefix": "/*"}
    client = aiplatform.gapic.ModelServiceClient(
        client_options={"api_endpoint": initializer.global_config.api_endpoint},
        credentials=AnonymousCredentials(),
        transport="rest",
    )
    parent = f"projects/{PROJECT}/locations/{REGION}"
    uploaded = client.upload_model(
        parent=parent, model={"display_name": "m", "container_spec": spec}
    )
    model = aiplatform.Model(uploaded.result().model)
    shared = aiplatform.Endpoint.create("shared")
    with pytest.raises(exceptions.BadRequest, match="needs a dedicated endpoint"):
        shared.deploy(model, **MACHINE)
    endpoint = aiplatform.Endpoint.create("e", dedicated_endpoint_enabled=True)
    endpoint.deploy(model, **MACHINE)
    headers = {"Content-Type": "text/plain"}
    stream = endpoint.invoke("/stream", b"only", headers=headers, stream=True)
    assert list(stream) == [b'"only"']
    missing = endpoint.invoke("/no/such/route", b"", headers=headers)
    assert (missing.status_code, missing.json()) == (404, {"error": "/no/such/route"})


@pytest.mark.full
def test_gcloud_prints_streams_and_sends_raw_bodies_with_their_type(
    gcloud: Run, stack: Stack
) -> None:
    succeed(gcloud, f"{UPLOAD}{TINY}:1 --model-id=m")
    succeed(gcloud, "ai endpoints create --display-name=e --endpoint-id=e")
    deploy = "ai endpoints deploy-model e --model=m --display-name=d --machine-type=e2-standard-2"
    succeed(gcloud, f"{deploy} --traffic-split=0=100")
    url = f"{stack.url}/v1/projects/{PROJECT}/locations/{REGION}/endpoints/e:predict"
    # Beforehand: gcloud reads the whole stream before it prints the first part.
    requests.post(url, json={"instances": [{"acknowledge": True}]}, timeout=60)
    request = '{"instances": ["a", "b"], "parameters": {"stream": true}}'
    line = f"ai endpoints stream-raw-predict e --request={shlex.quote(request)}"
    assert succeed(gcloud, line) == '"a""b"'
    line = "ai endpoints raw-predict e --http-headers=Content-Type=text/csv --request=1,2"
    assert json.loads(succeed(gcloud, line)) == {"type": "text/csv", "bytes": 3}


@pytest.mark.full
@pytest.mark.usefixtures("sdk")
def test_sdk_runs_a_batch_prediction_job(stack: Stack) -> None:
    with artifacts.storage_client(stack.state.config) as storage:
        storage.create_bucket("sdk-batch").blob("in.jsonl").upload_from_string('"a"\n2\n')
        job = upload(model_id="mm").batch_predict(
            job_display_name="j",
            gcs_source="gs://sdk-batch/in.jsonl",
            machine_type="e2-standard-2",
            gcs_destination_prefix="gs://sdk-batch/out",
            instances_format="jsonl",
        )
        assert job.completion_stats.successful_count == 2
        folder = job.output_info.gcs_output_directory.removeprefix("gs://sdk-batch/")
        lines = [
            json.loads(line)
            for blob in storage.list_blobs("sdk-batch", prefix=folder)
            if "results" in blob.name
            for line in blob.download_as_text().splitlines()
        ]
    assert lines == [{"instance": "a", "prediction": "a"}, {"instance": 2, "prediction": 2}]
    job.delete()


@pytest.mark.full
@pytest.mark.usefixtures("sdk")
def test_dedicated_endpoint_accepts_large_requests_at_its_own_domain_only(stack: Stack) -> None:
    endpoint = aiplatform.Endpoint.create("e", dedicated_endpoint_enabled=True)
    endpoint.deploy(upload(), **MACHINE)
    large = "x" * 3_000_000
    assert endpoint.predict(instances=[large], use_dedicated_endpoint=True).predictions == [large]
    raw = endpoint.raw_predict(
        body=b'{"instances": [7]}',
        headers={"Content-Type": "application/json"},
        use_dedicated_endpoint=True,
    )
    assert raw.json()["predictions"] == [7]
    shared = requests.post(
        f"{stack.url}/v1/{endpoint.resource_name}:predict", json={"instances": [1]}, timeout=30
    )
    assert shared.status_code == 400
    assert "cannot be accessed through the shared one" in shared.json()["error"]["message"]
    seconds = {"clientConnectionConfig": {"inferenceTimeout": "1s"}}
    url = f"{stack.url}/v1/{endpoint.resource_name}?updateMask=clientConnectionConfig"
    requests.patch(url, json=seconds, timeout=30).raise_for_status()
    with pytest.raises(ValueError, match="DEADLINE_EXCEEDED"):
        endpoint.predict(instances=[{"seconds": 3}], use_dedicated_endpoint=True)
    with pytest.raises(ValueError, match="Request payload size exceeds the limit"):
        endpoint.predict(instances=["x" * 11_000_000], use_dedicated_endpoint=True)
    assert stack.state.dedicated_host == endpoint.dedicated_endpoint_dns
