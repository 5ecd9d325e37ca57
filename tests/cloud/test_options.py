"""Tests of what Vertex AI offers to a container, as settings: the resources in the emulator have them."""

import json
import time
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from google.cloud import aiplatform_v1 as v1

from emulator import artifacts
from emulator.stack import Stack
from tests.cloud.conftest import PROJECT, TINY, Run, count_containers, traffic_by_version
from tests.cloud.test_failures import message

pytestmark = pytest.mark.full
KEY = f"projects/{PROJECT}/locations/us-central1/keyRings/ring/cryptoKeys/key"
TABLE = f"bq://{PROJECT}.serving.requests"
SECOND = {"DEPLOY_IMAGE": f"{TINY}:2"}
ALL = f"""
kms_key = "{KEY}"
dedicated = true
inference_timeout_s = 900
requests_per_minute = 600
cpu_percent = 80
spot = true
access_logging = true
container_logging = false
deployment_timeout_minutes = 60
service_account = "serving@{PROJECT}.iam.gserviceaccount.com"
[labels]
team = "vision"
[startup_probe]
path = "/ping"
failures = 100
"""


@pytest.fixture
def options(tmp_path: Path) -> Any:
    """Return a function that writes a settings file and returns the option for it."""

    def write(text: str) -> str:
        (tmp_path / "options.toml").write_text(text)
        return f"--settings {tmp_path}/options.toml"

    return write


def endpoint(stack: Stack) -> v1.Endpoint:
    (found,) = stack.state.endpoints.values()
    return found


def test_options_are_set_and_nothing_changes_when_the_command_is_repeated(
    deploy: Run, stack: Stack, options: Any
) -> None:
    line = f"deploy {options(ALL)}"
    assert deploy(line).code == 0
    found = endpoint(stack)
    (deployed,) = found.deployed_models
    (versions,) = stack.state.models.values()
    (model,) = versions.values()
    assert found.encryption_spec.kms_key_name == model.encryption_spec.kms_key_name == KEY
    assert found.client_connection_config.inference_timeout.total_seconds() == 900
    assert found.labels["team"] == model.labels["team"] == "vision"
    assert deployed.dedicated_resources.spot
    assert (deployed.enable_access_logging, deployed.disable_container_logging) == (True, True)
    assert deployed.service_account.startswith("serving@")
    assert model.container_spec.startup_probe.http_get.path == "/ping"
    assert "nothing changed" in deploy(line).out
    assert traffic_by_version(stack) == {"1": 100}


L4 = """
machine_type = "g2-standard-4"
accelerator_type = "NVIDIA_L4"
accelerator_count = 1
"""
PART = """
machine_type = "a3-highgpu-1g"
accelerator_type = "NVIDIA_H100_80GB"
accelerator_count = 1
gpu_partition_size = "1g.10gb"
"""


def test_gpu_and_then_a_part_of_one_are_deployed_and_shown_with_their_cost_and_quota(
    deploy: Run, stack: Stack, options: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    config = replace(stack.state.config, accelerator_quota=2, cpu_quota=99)
    monkeypatch.setattr(stack.state, "config", config)
    dry = deploy(f"endpoint --dry-run {options(L4)}").out
    assert "at least 2 of custom_model_serving_nvidia_l4_gpus in us-central1" in dry
    assert "about $0.81 an hour ($593 a month)" in dry
    assert not stack.state.endpoints
    assert deploy(f"endpoint {options(L4)}").code == 0
    shown = deploy("status").out
    assert "1 to 2 x g2-standard-4 + 1 NVIDIA_L4, new, $0.81 an hour" in shown
    assert "quota: up to 2 of custom_model_serving_nvidia_l4_gpus" in shown
    done = deploy(f"endpoint {options(PART)}")
    assert done.code == 0
    assert "at least 2 of custom_model_serving_nvidia_h100_gpus" in done.out
    specs = [each.dedicated_resources.machine_spec for each in endpoint(stack).deployed_models]
    assert [spec.gpu_partition_size for spec in specs] == ["1g.10gb"], "it is another deployment"
    shown = deploy("status").out
    assert "a3-highgpu-1g + 1g.10gb of NVIDIA_H100_80GB, new, $12.63 an hour" in shown
    assert "nothing changed" in deploy(f"endpoint {options(PART)}").out


def test_changed_options_are_updated_without_another_deployment(
    deploy: Run, stack: Stack, options: Any
) -> None:
    base = "dedicated = true\n"
    assert deploy(f"deploy {options(base)}").code == 0
    (before,) = endpoint(stack).deployed_models
    changed = f"""{base}
inference_timeout_s = 120
request_log_percent = 25.0
request_log_table = "{TABLE}"
requests_per_minute = 60
container_logging = false
max_replicas = 3
[labels]
team = "audio"
"""
    done = deploy(f"deploy {options(changed)}")
    assert done.code == 0, done.err
    found = endpoint(stack)
    (after,) = found.deployed_models
    assert (before.id, after.disable_container_logging) == (after.id, True)
    assert after.dedicated_resources.max_replica_count == 3
    logging = found.predict_request_response_logging_config
    assert (logging.enabled, logging.sampling_rate) == (True, 0.25)
    assert logging.bigquery_destination.output_uri == TABLE
    assert found.labels["team"] == "audio"
    assert found.client_connection_config.inference_timeout.total_seconds() == 120
    assert deploy(f"deploy {options(base)}").code == 0
    assert not endpoint(stack).predict_request_response_logging_config.enabled


def test_option_that_needs_another_endpoint_is_refused_before_anything_is_uploaded(
    deploy: Run, stack: Stack
) -> None:
    assert deploy("deploy").code == 0
    failed = deploy(f"endpoint --kms-key {KEY}", **SECOND)
    assert "kms_key of the endpoint toy cannot be changed" in message(failed.err)
    (versions,) = stack.state.models.values()
    assert len(versions) == 1


def test_changed_machine_is_another_deployment_of_the_same_version(
    deploy: Run, stack: Stack
) -> None:
    assert deploy("deploy").code == 0
    done = deploy("deploy --spot")
    assert done.code == 0, done.err
    shares = [
        (each.dedicated_resources.spot, endpoint(stack).traffic_split.get(each.id, 0))
        for each in endpoint(stack).deployed_models
    ]
    assert (True, 100) in shares


def test_private_endpoint_is_created_under_the_model_s_name_and_gets_no_request(
    deploy: Run, stack: Stack
) -> None:
    line = f"--psc-projects {PROJECT},another-project"
    done = deploy(f"endpoint {line}")
    assert done.code == 0, done.err
    assert "no request was sent: a private endpoint is reachable only from its network" in done.out
    private = endpoint(stack).private_service_connect_config
    assert endpoint(stack).name.endswith("/endpoints/toy")
    assert list(private.project_allowlist) == [PROJECT, "another-project"]
    assert "a private endpoint cannot be reached" in message(deploy(f"predict {line}").err)
    assert deploy(f"canary {line}", **SECOND).code == 0
    assert traffic_by_version(stack) == {"1": 90, "2": 10}
    assert deploy("teardown --yes").code == 0
    assert count_containers(stack) == 0


def test_batch_job_has_options_of_the_command_and_of_the_settings(
    deploy: Run, stack: Stack, options: Any
) -> None:
    assert deploy("upload").code == 0
    text = f'kms_key = "{KEY}"\nmachine_type = "n1-standard-4"\n[labels]\nteam = "vision"\n'
    with artifacts.storage_client(stack.state.config) as storage:
        bucket = storage.create_bucket("batch-options")
        bucket.blob("a.jsonl").upload_from_string('{"a": 1, "id": "x"}\n')
        done = deploy(
            f"batch-predict {options(text)} --version 1 --input gs://batch-options/a.jsonl "
            "--output gs://batch-options/out --key-field id --batch-size 2 --replicas 2"
        )
        bucket.delete(force=True)
    assert done.code == 0, done.err
    (job,) = stack.state.batch_jobs.values()
    assert job.instance_config.key_field == "id"
    assert job.manual_batch_tuning_parameters.batch_size == 2
    assert job.dedicated_resources.starting_replica_count == 2
    assert job.dedicated_resources.machine_spec.machine_type == "n1-standard-4"
    assert (job.encryption_spec.kms_key_name, job.labels["team"]) == (KEY, "vision")


@pytest.mark.parametrize(
    ("files", "options_", "instances"),
    [
        (
            {"a.csv": 'a,id,"b"\n1,7,"x"\n2.5,8,"y"\n'},
            "a.csv --instance-type object --key-field id",
            {7: {"a": 1, "b": "x"}, 8: {"a": 2.5, "b": "y"}},
        ),
        (
            {
                "a.jsonl": '{"a": 1, "b": 2, "id": "x"}\n',
                "b.jsonl": '{"a": 3, "b": 4, "id": "y"}\n',
            },
            "*.jsonl --instance-type array --include-fields b,a --key-field id",
            {"x": [2, 1], "y": [4, 3]},
        ),
        (
            {"one": "1", "list.txt": "gs://formats/one\n"},
            "list.txt",
            {"{'b64': 'MQ=='}": {"b64": "MQ=="}},
        ),
    ],
)
def test_batch_job_converts_its_input_as_the_options_say(
    deploy: Run, stack: Stack, files: dict[str, str], options_: str, instances: dict[Any, Any]
) -> None:
    assert deploy("upload").code == 0
    with artifacts.storage_client(stack.state.config) as storage:
        bucket = storage.create_bucket("formats")
        for name, text in files.items():
            bucket.blob(name).upload_from_string(text)
        done = deploy(
            f"batch-predict --version 1 --output gs://formats/out --input gs://formats/{options_}"
        )
        lines = [
            json.loads(line)
            for blob in storage.list_blobs(bucket, prefix="out/")
            if ".results-" in blob.name
            for line in blob.download_as_text().splitlines()
        ]
        bucket.delete(force=True)
    assert done.code == 0, done.err
    assert f"{len(instances)} succeeded, 0 failed" in done.out
    # The container returns what it gets.
    found = {line.get("key", str(line.get("instance"))): line["prediction"] for line in lines}
    assert found == {key: echoed(value) for key, value in instances.items()}


@pytest.mark.parametrize(
    ("uri", "expected"),
    [
        ("gs://no-such-bucket/a.jsonl", "the bucket does not exist"),
        ("gs://missing-input/a.jsonl", "no object has this name"),
        ("gs://missing-input/*.csv", "no object has this name"),
    ],
)
def test_batch_job_without_input_is_refused_before_it_starts(
    deploy: Run, stack: Stack, uri: str, expected: str
) -> None:
    assert deploy("upload").code == 0
    with artifacts.storage_client(stack.state.config) as storage:
        bucket = storage.create_bucket("missing-input")
        failed = deploy(f"batch-predict --version 1 --input {uri} --output gs://missing-input/out")
        bucket.delete(force=True)
    assert f"--input: '{uri}': {expected}" in message(failed.err)
    assert not stack.state.batch_jobs


def echoed(instance: Any) -> Any:
    """Return the container's prediction: an object that is no command becomes an empty text."""
    return "" if isinstance(instance, dict) else instance


def test_model_that_scales_to_zero_tells_so_and_serves_again(deploy: Run, stack: Stack) -> None:
    line = "--min-replicas 0 --idle-minutes 5 --min-up-minutes 5"
    assert deploy(f"deploy {line}").code == 0
    assert "nothing changed" in deploy(f"deploy {line}").out
    deadline = time.monotonic() + 60
    while count_containers(stack) and time.monotonic() < deadline:
        time.sleep(0.2)
    assert count_containers(stack) == 0, "the replica still runs"
    asleep = deploy(f"predict {line}")
    assert "the endpoint toy is scaled to zero, and starts a replica now" in message(asleep.err)
    assert "send the request again in some minutes" in asleep.err
    deadline = time.monotonic() + 120  # builds of other tests may delay the start of a container
    while deploy(f"predict {line}").code != 0:
        assert time.monotonic() < deadline, "it was not started again"


def test_rolling_deployment_replaces_the_serving_version_and_so_does_its_rollback(
    deploy: Run, stack: Stack
) -> None:
    assert deploy("deploy --rolling").code == 0
    done = deploy("deploy --rolling", **SECOND)
    assert done.code == 0, done.err
    assert "replacing the replicas of deployed model" in done.out
    assert traffic_by_version(stack) == {"2": 100}
    assert count_containers(stack) == 1
    back = deploy("rollback --rolling")
    assert back.code == 0, back.err
    assert traffic_by_version(stack) == {"1": 100}
    assert count_containers(stack) == 1
