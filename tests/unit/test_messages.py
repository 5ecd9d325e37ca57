"""Tests that requests to Vertex AI are of Google's own types, and that its responses are read back."""

from typing import Any

import pytest
from google.cloud import aiplatform_v1 as v1
from google.cloud import aiplatform_v1beta1 as v1beta1
from google.protobuf import json_format

from deploy.batch_request import (
    BatchRequest,
    check_fields,
    choose_input_format,
    choose_output_format,
)
from deploy.endpoint_config import (
    changed_parts,
    check_immutable,
    from_settings,
    request_timeout_s,
)
from deploy.errors import UserError
from deploy.fields.container import Probe
from deploy.gcp import messages
from deploy.settings import Settings

KEY = "projects/my-project/locations/us-central1/keyRings/ring/cryptoKeys/key"
NETWORK = "projects/123456/global/networks/default"
RESERVATION = "projects/my-project/zones/us-central1-a/reservations/mine"
TABLE = "bq://my-project.serving.requests"
ENDPOINTS: dict[str, dict[str, Any]] = {
    "shared": {},
    "dedicated": {"dedicated": True, "inference_timeout_s": 900},
    "dedicated, of a slow container": {"dedicated": True, "env": {"RESPONSE_TIMEOUT_S": "3595"}},
    "private": {"psc_projects": ["my-project", "another-project"], "inference_timeout_s": 70},
    "private, with an address of Google's": {
        "psc_projects": ["my-project"],
        "psc_network": NETWORK,
    },
    "peered": {"network": NETWORK},
    "encrypted": {"kms_key": KEY},
    "labelled": {"labels": {"team": "größe-1"}},
    "logged": {"request_log_percent": 12.5, "request_log_table": TABLE},
    "logged to a new table": {"request_log_percent": 0.1},
}
DEPLOYMENTS: dict[str, dict[str, Any]] = {
    "the default": {},
    "an accelerator": {
        "machine_type": "g2-standard-8",
        "accelerator_type": "NVIDIA_L4",
        "accelerator_count": 1,
        "gpu_percent": 70,
    },
    "a part of an accelerator": {
        "machine_type": "a3-highgpu-8g",
        "accelerator_type": "NVIDIA_H100_80GB",
        "accelerator_count": 1,
        "gpu_partition_size": "1g.10gb",
    },
    "requests": {"requests_per_minute": 600, "cpu_percent": 80, "max_replicas": 9},
    "spot": {"spot": True},
    "a reservation": {"reservation": RESERVATION},
    "any reservation": {"reservation": "any"},
    "logs": {"container_logging": False, "access_logging": True},
    "an account": {"service_account": "serving@my-project.iam.gserviceaccount.com"},
    "scale to zero": {"min_replicas": 0, "idle_minutes": 30, "min_up_minutes": 5},
}
PROBES = {
    "startup_probe": Probe(path="/ping", failures=120, delay_s=5),
    "health_probe": Probe(path="/ping", period_s=5, timeout_s=5),
    "liveness_probe": Probe(command=["test", "-S", "/tmp/socket"]),
}


def settings(**values: Any) -> Settings:
    return Settings(project="my-project", **values)


def through_google(message_type: Any, content: dict[str, Any]) -> dict[str, Any]:
    """Return JSON as Google returns it; raise ParseError for what the type does not have."""
    parsed = json_format.ParseDict(content, message_type.pb()())
    return dict(json_format.MessageToDict(parsed))


@pytest.mark.parametrize("values", ENDPOINTS.values(), ids=ENDPOINTS)
def test_endpoint_is_created_with_its_settings_and_needs_no_change_afterwards(
    values: dict[str, Any],
) -> None:
    config = from_settings(settings(**values))
    created = through_google(v1.Endpoint, messages.endpoint(settings(**values), config))
    found = messages.read_config(created)
    check_immutable(found, config, "digits")
    assert list(changed_parts(found, config)) == []
    assert found.labels["created-by"] == "deploy"
    assert found.timeout_s == config.timeout_s


def test_endpoint_waits_a_little_longer_than_its_container_and_an_hour_at_most() -> None:
    slow: dict[str, Any] = {"env": {"RESPONSE_TIMEOUT_S": "900"}}
    assert from_settings(settings(dedicated=True, **slow)).timeout_s == 910
    assert from_settings(settings(psc_projects=["my-project"], **slow)).timeout_s == 910
    assert (
        from_settings(settings(dedicated=True, inference_timeout_s=1200, **slow)).timeout_s == 1200
    )
    assert from_settings(settings(**ENDPOINTS["dedicated, of a slow container"])).timeout_s == 3600
    assert from_settings(settings(env={"RESPONSE_TIMEOUT_S": "50"})).timeout_s == 0, "it is shared"
    assert request_timeout_s(settings()) == 70
    assert request_timeout_s(settings(dedicated=True)) == 610
    assert request_timeout_s(settings(dedicated=True, **slow)) == 920


@pytest.mark.parametrize(
    ("before", "after", "parts"),
    [
        ({}, {"labels": {"team": "a"}}, ["labels"]),
        ({"labels": {"team": "a"}}, {}, []),
        ({}, {"request_log_percent": 1.0}, ["logging"]),
        ({"request_log_percent": 1.0}, {}, ["logging"]),
        (
            {"request_log_percent": 1.0},
            {"request_log_percent": 1.0, "request_log_table": TABLE},
            ["logging"],
        ),
        ({"dedicated": True}, {"dedicated": True, "inference_timeout_s": 9}, ["timeout"]),
        ({"dedicated": True, "inference_timeout_s": 9}, {"dedicated": True}, []),
    ],
)
def test_changed_setting_of_an_endpoint_is_updated(
    before: dict[str, Any], after: dict[str, Any], parts: list[str]
) -> None:
    current = from_settings(settings(**before))
    assert list(changed_parts(current, from_settings(settings(**after)))) == parts


@pytest.mark.parametrize(
    ("before", "after", "message"),
    [
        ({}, {"dedicated": True}, "digits is a shared endpoint, but dedicated = true is set"),
        ({"dedicated": True}, {}, "digits is a dedicated endpoint, but dedicated = false is set"),
        ({}, {"psc_projects": ["my-project"]}, "is a shared endpoint, but psc_projects is set"),
        ({"network": NETWORK}, {}, "digits is a peered endpoint, but dedicated = false is set"),
        (
            {"psc_projects": ["my-project"]},
            {"psc_projects": ["other-project"]},
            "psc_projects of the endpoint",
        ),
        ({}, {"kms_key": KEY}, "kms_key of the endpoint digits cannot be changed"),
    ],
)
def test_setting_that_an_endpoint_cannot_change_is_refused_with_what_to_do(
    before: dict[str, Any], after: dict[str, Any], message: str
) -> None:
    current, expected = from_settings(settings(**before)), from_settings(settings(**after))
    with pytest.raises(UserError, match=message) as raised:
        check_immutable(current, expected, "digits")
    assert "another name" in raised.value.hint
    assert "make teardown" in raised.value.hint


@pytest.mark.parametrize("values", DEPLOYMENTS.values(), ids=DEPLOYMENTS)
def test_deployed_model_has_its_settings_and_needs_no_other_deployment(
    values: dict[str, Any],
) -> None:
    s = settings(**values)
    api = v1 if s.min_replicas else v1beta1
    deployed = through_google(api.DeployedModel, messages.deployed_model(s, "3"))
    (found,) = messages.read_deployed_models({"deployedModels": [{"id": "1", **deployed}]})
    assert (found.version, found.machine, found.replicas) == ("3", s.machine, s.replicas)


def test_replaced_model_keeps_its_machines_in_a_rolling_deployment() -> None:
    s = settings(rolling=True, max_surge=2)
    deployed = through_google(v1beta1.DeployedModel, messages.deployed_model(s, "3", "17"))
    assert "dedicatedResources" not in deployed
    options = {"previousDeployedModel": "17", "maxSurgeReplicas": 2, "maxUnavailableReplicas": 0}
    assert deployed["rolloutOptions"] == options


def test_scaling_target_of_the_cpu_and_of_accelerators_are_both_set() -> None:
    s = settings(**DEPLOYMENTS["an accelerator"], requests_per_minute=5)
    specs = messages.resources(s.machine, s.replicas)["autoscalingMetricSpecs"]
    metrics = "aiplatform.googleapis.com/prediction/online"
    assert {spec["metricName"]: spec["target"] for spec in specs} == {
        f"{metrics}/cpu/utilization": 60,
        f"{metrics}/accelerator/duty_cycle": 70,
        f"{metrics}/request_count": 5,
    }


def test_container_has_its_probes_and_time_to_start_and_is_found_again() -> None:
    s = settings(**PROBES, deployment_timeout_minutes=90, shared_memory_mb=64, env={"A": "1"})
    spec = messages.container_spec(s, "image")
    assert through_google(v1.ModelContainerSpec, spec) == spec, "the version is not found again"
    assert spec == {
        "imageUri": "image",
        "ports": [{"containerPort": 8080}],
        "healthRoute": "/ping",
        "predictRoute": "/predictions/digits",
        "env": [{"name": "A", "value": "1"}],
        "sharedMemorySizeMb": "64",
        "deploymentTimeout": "5400s",
        "startupProbe": {
            "httpGet": {"path": "/ping", "port": 8080},
            "periodSeconds": 10,
            "timeoutSeconds": 10,
            "failureThreshold": 120,
            "initialDelaySeconds": 5,
        },
        "healthProbe": {
            "httpGet": {"path": "/ping", "port": 8080},
            "periodSeconds": 5,
            "timeoutSeconds": 5,
            "failureThreshold": 3,
        },
        "livenessProbe": {
            "exec": {"command": ["test", "-S", "/tmp/socket"]},
            "periodSeconds": 10,
            "timeoutSeconds": 10,
            "failureThreshold": 3,
        },
    }
    assert set(spec) == set(messages.CONTAINER_FIELDS)


def test_model_has_labels_and_key() -> None:
    s = settings(labels={"team": "a"}, kms_key=KEY)
    model = through_google(v1.Model, messages.model(s, "image", {"git-commit": "1"}))
    assert model["labels"] == {"team": "a", "git-commit": "1"}
    assert model["encryptionSpec"] == {"kmsKeyName": KEY}


def batch(**values: Any) -> BatchRequest:
    content: dict[str, Any] = {"sources": ["gs://bucket/a.jsonl"], "output": "gs://bucket/out"}
    content |= values
    content.setdefault("input_format", choose_input_format(content["sources"], ""))
    content.setdefault("output_format", choose_output_format(content["output"], ""))
    request = BatchRequest(version="3", **content)
    check_fields(request)
    return request


@pytest.mark.parametrize(
    ("values", "formats"),
    [
        ({}, ("jsonl", "jsonl")),
        ({"sources": ["gs://b-1/a.csv", "gs://b-1/b.csv"], "key_field": "id"}, ("csv", "jsonl")),
        ({"sources": ["gs://b-1/list.txt"]}, ("file-list", "jsonl")),
        ({"sources": ["gs://b-1/*.tfrecord"]}, ("tf-record", "jsonl")),
        (
            {"sources": [TABLE], "output": "bq://my-project.answers", "excluded_fields": ["a"]},
            ("bigquery", "bigquery"),
        ),
        (
            {"instance_type": "array", "included_fields": ["b", "a"], "batch_size": 8},
            ("jsonl", "jsonl"),
        ),
    ],
)
def test_batch_job_has_the_formats_of_its_input_and_output(
    values: dict[str, Any], formats: tuple[str, str]
) -> None:
    s = settings(**DEPLOYMENTS["an accelerator"], kms_key=KEY, labels={"team": "a"})
    content = messages.batch_job(s, batch(**values, parameters={"top_k": 1}, replicas=2), "job")
    job = through_google(v1.BatchPredictionJob, content)
    found = (job["inputConfig"]["instancesFormat"], job["outputConfig"]["predictionsFormat"])
    assert found == formats
    resources = job["dedicatedResources"]
    assert resources["machineSpec"]["acceleratorType"] == "NVIDIA_L4"
    assert (resources["startingReplicaCount"], resources["maxReplicaCount"]) == (2, 2)
    assert job["labels"] == {"team": "a", "created-by": "deploy"}
    assert job["encryptionSpec"] == {"kmsKeyName": KEY}
    assert job["modelParameters"] == {"top_k": 1}
    instances = job.get("instanceConfig", {})
    assert instances.get("includedFields", []) == list(values.get("included_fields", []))
    assert instances.get("keyField") == values.get("key_field")


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ({"sources": ["bucket/a.jsonl"]}, "--input: 'bucket/a.jsonl' should be gs://BUCKET/FILE"),
        ({"sources": ["gs://bucket"]}, "--input: 'gs://bucket' should be gs://BUCKET/FILE"),
        ({"sources": ["bq://my-project.data"]}, "should be one table, bq://PROJECT.DATASET.TABLE"),
        ({"sources": [TABLE, TABLE]}, "should be one table"),
        ({"sources": ["gs://bucket/a", TABLE]}, "should be gs://BUCKET/FILE"),
        ({"output": "/tmp/x"}, "--output: '/tmp/x' should be gs://BUCKET/FOLDER"),
        ({"output": "gs://bucket/*"}, "--output: 'gs://bucket/\\*' should be gs://BUCKET/FOLDER"),
        ({"output": "bq://"}, "--output: 'bq://' should be bq://PROJECT"),
        ({"included_fields": ["a"], "excluded_fields": ["b"]}, "exclude each other"),
        (
            {"sources": ["gs://bucket/l.txt"], "key_field": "a"},
            "--key-field does not apply to the input format",
        ),
        (
            {"sources": ["gs://bucket/a.csv"], "included_fields": ["a"]},
            "--include-fields does not apply",
        ),
    ],
)
def test_batch_job_that_google_would_refuse_is_refused_at_once(
    values: dict[str, Any], message: str
) -> None:
    with pytest.raises(UserError, match=message) as raised:
        batch(**values)
    assert raised.value.hint
