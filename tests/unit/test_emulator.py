"""The emulator's rules that need no container: fields, lists, formats of batch prediction, routes and machines."""

import json
from typing import Any

import pytest
from google.cloud import aiplatform_v1 as v1
from werkzeug.test import Client

from emulator import batch_formats, machines, transcoding
from emulator.batch_formats import Instance
from emulator.config import EmulatorConfig
from emulator.errors import ApiError
from emulator.listing import list_page
from emulator.prediction import parse_predictions
from emulator.routes import find_route
from emulator.server import App
from emulator.state import State, canonical_name
from tests.http import wait_for

PARENT = "projects/p/locations/us-central1"
MODEL: dict[str, Any] = {"displayName": "m", "containerSpec": {"imageUri": "i"}}
MACHINE = {"machineSpec": {"machineType": "e2-standard-2"}, "minReplicaCount": 1}
JOB = {
    "displayName": "j",
    "model": "m",
    "inputConfig": {"instancesFormat": "csv", "gcsSource": {"uris": ["gs://b/x"]}},
    "outputConfig": {"predictionsFormat": "jsonl", "gcsDestination": {"outputUriPrefix": "gs://b"}},
}
UPLOAD, CREATE, DEPLOY = "models:upload", "endpoints", "endpoints/e:deployModel"
UPDATE, BATCH, COPY = "PATCH endpoints/e?updateMask=x", "batchPredictionJobs", "models:copy"


def parse(path: str, content: Any, *, version: str = "v1") -> Any:
    """Return a request as a message of Google's type."""
    verb, _, path = path.rpartition(" ")
    path, _, query = path.partition("?")
    arguments = {query.partition("=")[0]: [query.partition("=")[2]]} if query else {}
    body = json.dumps(content).encode()
    url = f"/{version}/{PARENT}/{path}"
    return transcoding.parse_request(verb or "POST", url, arguments, body)


def model(**fields: Any) -> Any:
    return {"model": MODEL | fields}


def container(**fields: Any) -> Any:
    return model(containerSpec=MODEL["containerSpec"] | fields)


def endpoint(**fields: Any) -> Any:
    return {"displayName": "e"} | fields


def deployment(**fields: Any) -> Any:
    return {"deployedModel": {"model": "m", "dedicatedResources": MACHINE} | fields}


def job(**fields: Any) -> Any:
    return JOB | fields


@pytest.fixture
def client() -> Client:
    """Return a client of the control plane of an emulator without containers."""
    state = State(EmulatorConfig())
    deployed = v1.DeployedModel(id="7")
    name = canonical_name(f"{PARENT}/endpoints/e")
    state.endpoints[name] = v1.Endpoint(
        name=name, deployed_models=[deployed], traffic_split={"7": 100}
    )
    return Client(App(state))


PSC = {"privateServiceConnectConfig": {"enablePrivateServiceConnect": True}}
NETWORK = {"network": "projects/1/global/networks/n"}


@pytest.mark.parametrize(
    ("path", "content", "message"),
    [
        (UPLOAD, model(displayName="x" * 129), "model.display_name: it has 129 characters, 128"),
        (UPLOAD, model() | {"modelId": "1abc"}, "model_id: 1abc: the first character"),
        (UPLOAD, model() | {"modelId": "-abc"}, "model_id: -abc: the first character"),
        (UPLOAD, model() | {"modelId": "Abc"}, "model_id: Abc: valid characters"),
        (UPLOAD, model() | {"modelId": "a" * 64}, "model_id: it has 64 characters, 63"),
        (UPLOAD, model(labels={"team": "x" * 65}), "64 characters at most"),
        (UPLOAD, model(labels={"Team": "x"}), "lowercase letters"),
        (UPLOAD, container(deploymentTimeout="10800s"), "10800 s: 7200 s at most"),
        (UPLOAD, container(invokeRoutePrefix="/foo"), "expected one of /\\*"),
        (
            UPLOAD,
            container(invokeRoutePrefix="/*", predictRoute="/p"),
            "Only one of .*predict_route",
        ),
        (UPLOAD, container(startupProbe={"periodSeconds": -1}), "-1: expected 1 or more"),
        (UPLOAD, container(healthProbe={"httpGet": {"port": 70000}}), "70000: .*65535 at most"),
        (COPY, {"sourceModel": "m", "modelId": "1a"}, "the first character"),
        (CREATE, endpoint(displayName="x" * 130), "130 characters, 128"),
        (CREATE, endpoint(**PSC, **NETWORK), "Only one of .*network"),
        (
            CREATE,
            endpoint(predictRequestResponseLoggingConfig={"samplingRate": 1.5}),
            "1.5: expected above 0, 1 at most",
        ),
        (UPDATE, {"displayName": "x" * 140}, "endpoint.display_name: it has 140 characters"),
        (DEPLOY, deployment(id="12345678901"), "11 characters, 10 at most"),
        (DEPLOY, deployment(id="abc"), "abc: valid characters are \\[0-9\\]"),
        (
            DEPLOY,
            {"deployedModel": {"dedicatedResources": {"machineSpec": {}}}},
            "min_replica_count",
        ),
        (
            BATCH,
            job(instanceConfig={"instanceType": "list"}),
            "list: expected one of object, array",
        ),
        (
            BATCH,
            job(instanceConfig={"includedFields": ["a"], "excludedFields": ["b"]}),
            "Only one of .*fields",
        ),
    ],
)
def test_limits_in_the_documentation_of_googles_types_are_checked(
    path: str, content: Any, message: str
) -> None:
    with pytest.raises(ApiError, match=message) as raised:
        parse(path, content)
    assert raised.value.http_status == 400


@pytest.mark.parametrize(
    ("path", "content"),
    [
        (UPLOAD, model(displayName="ü" * 128, labels={"team": "ünï"}) | {"modelId": "_a-1"}),
        (UPLOAD, container(deploymentTimeout="7200s", invokeRoutePrefix="/*")),
        (CREATE, endpoint(**PSC)),
        (UPDATE, {"labels": {"a": "b"}}),
        (DEPLOY, deployment(id="1234567890")),
        (BATCH, job(instanceConfig={"instanceType": "object", "keyField": "id"})),
    ],
)
def test_values_at_the_limits_are_accepted(path: str, content: Any) -> None:
    assert parse(path, content)


def test_fields_of_v1beta1_are_checked_and_kept() -> None:
    scale = {"idleScaledownPeriod": "100s"}
    resources = {"machineSpec": {}, "initialReplicaCount": 1, "scaleToZeroSpec": scale}
    with pytest.raises(ApiError, match="100 s: 300 s at least"):
        parse(DEPLOY, deployment(dedicatedResources=resources), version="v1beta1")
    with pytest.raises(ApiError, match='Unknown name "initialReplicaCount"'):
        parse(DEPLOY, deployment(dedicatedResources=resources))
    scale["idleScaledownPeriod"] = "300s"
    request = parse(DEPLOY, deployment(dedicatedResources=resources), version="v1beta1")
    assert isinstance(request, v1.DeployModelRequest)
    kept = transcoding.to_json(request.deployed_model, beta=True)["dedicatedResources"]
    assert kept == resources


ENDPOINTS = [
    v1.Endpoint(name=f"{PARENT}/endpoints/{number}", display_name=name, labels=labels)
    for number, name, labels in (
        (1, "x", {"team": "a"}),
        (2, "y", {"a b": "c"}),
        (3, "x y", {"b": "2"}),
    )
]
JOBS = [
    v1.BatchPredictionJob(
        name=f"jobs/{n}", display_name=f"my_job_{n}", state=state, create_time={"seconds": n}
    )
    for n, state in ((0, "JOB_STATE_SUCCEEDED"), (10**9, "JOB_STATE_FAILED"))
]


@pytest.mark.parametrize(
    ("expression", "ids"),
    [
        ('displayName="x"', "1"),
        ('display_name!="x"', "23"),
        ("endpoint=2", "2"),
        ("labels:team", "1"),
        ("labels.team:*", "1"),
        ('labels."a b"=c', "2"),
        ("labels.team=a OR labels.b=2", "13"),
        ('NOT display_name="x"', "23"),
        ('display_name="x" AND (labels.team=z OR labels.team=a)', "1"),
    ],
)
def test_endpoints_are_filtered_as_documented(expression: str, ids: str) -> None:
    page, _ = list_page(ENDPOINTS, v1.ListEndpointsRequest(filter=expression))
    assert "".join(each.name[-1] for each in page) == ids


@pytest.mark.parametrize(
    ("expression", "count"),
    [
        ('state="JOB_STATE_SUCCEEDED"', 1),
        ('NOT state="JOB_STATE_SUCCEEDED"', 1),
        ('create_time>"2001-01-01T00:00:00Z"', 1),
        ('display_name:"my_job_*"', 2),
    ],
)
def test_batch_prediction_jobs_are_filtered_as_documented(expression: str, count: int) -> None:
    page, _ = list_page(JOBS, v1.ListBatchPredictionJobsRequest(filter=expression))
    assert len(page) == count


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"filter": "display_name:x*"}, "does not support the comparison :"),
        ({"filter": "colour=x"}, "field colour is not supported; supported: endpoint"),
        ({"filter": "display_name="}, "it is incomplete"),
        ({"filter": "(endpoint=1"}, "it is incomplete"),
        ({"order_by": "name"}, "supported: display_name, create_time, update_time"),
        ({"order_by": "display_name down"}, "Invalid order_by"),
        ({"page_size": -1}, "Invalid page_size"),
        ({"page_token": "x"}, "Invalid page_token"),
        ({"read_mask": {"paths": ["colour"]}}, "Invalid read_mask"),
    ],
)
def test_lists_refuse_what_is_not_documented(fields: Any, message: str) -> None:
    with pytest.raises(ApiError, match=message) as raised:
        list_page(ENDPOINTS, v1.ListEndpointsRequest(fields))
    assert raised.value.http_status == 400


def test_lists_are_ordered_paged_and_masked() -> None:
    request = v1.ListEndpointsRequest(order_by="display_name desc", page_size=2)
    page, token = list_page(ENDPOINTS, request)
    assert ([each.display_name for each in page], token) == (["y", "x y"], "2")
    last, token = list_page(ENDPOINTS, v1.ListEndpointsRequest(page_size=2, page_token=token))
    assert ([each.display_name for each in last], token) == (["x y"], "")
    masked, _ = list_page(ENDPOINTS, v1.ListEndpointsRequest(read_mask={"paths": ["displayName"]}))
    assert masked[0] == v1.Endpoint(display_name="x")


@pytest.mark.parametrize(
    ("verb", "path", "message"),
    [
        (
            "POST",
            f"/v1/{PARENT}/deploymentResourcePools",
            "CreateDeploymentResourcePool of DeploymentRes",
        ),
        ("GET", f"/v1/{PARENT}/datasets", "ListDatasets of DatasetService"),
        ("GET", f"/v1/{PARENT}/tensorboards", "ListTensorboards of TensorboardService"),
        ("GET", f"/v1beta1/{PARENT}/tensorboards", "ListTensorboards of TensorboardService"),
        ("GET", f"/v1/{PARENT}/repositories/r:getIamPolicy", "GetIamPolicy of ArtifactRegistry"),
    ],
)
def test_published_services_that_are_not_supported_have_a_name(
    verb: str, path: str, message: str
) -> None:
    route, _ = find_route(verb, path)
    assert not route.is_supported
    assert f"{route.rpc} of {route.service}".startswith(message)


@pytest.mark.parametrize("path", ["/v1/projects", "/v1/projects/p/services", "/v2/p/logs"])
def test_apis_without_a_published_client_are_named(path: str) -> None:
    with pytest.raises(ApiError, match=r"does not support GET /v\d") as raised:
        find_route("GET", path)
    assert raised.value.http_status == 501


def test_project_in_a_domain_has_routes() -> None:
    route, variables = find_route("GET", "/v1/projects/example.com:p/locations/r/models")
    assert (route.rpc, variables) == (
        "ListModels",
        {"parent": "projects/example.com:p/locations/r"},
    )


@pytest.mark.parametrize(
    ("machine", "accelerator", "count", "message"),
    [
        ("n1-highcpu-3", "", 0, "n1-highcpu-3"),
        ("banana-99", "", 0, "banana-99"),
        ("e2-standard-4", "NVIDIA_TESLA_T4", 1, 'not supported for machine type "e2-standard-4"'),
        ("n1-standard-4", "NVIDIA_TESLA_T4", 3, r'count "3" is not allowed.* are: \[1, 2, 4\]'),
        ("g2-standard-4", "NVIDIA_L4", 2, r'"NVIDIA_L4" .*"g2-standard-4" are: \[1\]'),
        ("a2-highgpu-1g", "", 0, 'UNSPECIFIED" is not supported'),
        ("n1-standard-4", "TPU_V2", 1, '"TPU_V2" is not supported'),
        ("n1-standard-32", "NVIDIA_TESLA_T4", 1, r"are: \[2, 4\]"),
        ("a3-highgpu-8g", "NVIDIA_H100_80GB", 9, r"\[1, 2, 3, 4, 5, 6, 7, 8\]"),
    ],
)
def test_machines_that_do_not_exist_are_refused(
    machine: str, accelerator: str, count: int, message: str
) -> None:
    kind = accelerator or "ACCELERATOR_TYPE_UNSPECIFIED"
    spec = v1.MachineSpec(machine_type=machine, accelerator_type=kind, accelerator_count=count)
    with pytest.raises(ApiError, match=message):
        machines.check(spec, "us-central1")


@pytest.mark.parametrize(
    ("fields", "region", "message"),
    [
        ({}, "europe-north1", '"NVIDIA_H100_80GB" is not supported in region "europe-north1"'),
        ({"gpu_partition_size": "1g.5gb"}, "us-central1", 'size "1g.5gb" is not supported'),
        ({"gpu_partition_size": "1g.10gb", "accelerator_count": 2}, "us-central1", "must be 1"),
    ],
)
def test_accelerator_or_part_that_a_region_or_an_accelerator_lacks_is_refused(
    fields: dict[str, Any], region: str, message: str
) -> None:
    h100 = {"accelerator_type": "NVIDIA_H100_80GB", "accelerator_count": 1}
    spec = v1.MachineSpec(machine_type="a3-highgpu-8g", **h100, gpu_partition_size="1g.10gb")
    machines.check(spec, "us-central1")
    with pytest.raises(ApiError, match=message):
        machines.check(v1.MachineSpec(spec, **fields), region)


def test_quotas_of_accelerators_have_the_names_of_google() -> None:
    kinds = ("NVIDIA_L4", "NVIDIA_A100_80GB", "NVIDIA_H100_80GB", "NVIDIA_RTX_PRO_6000")
    assert [machines.quota_name(kind) for kind in kinds] == [
        f"CustomModelServing{name}GPUsPerProjectPerRegion"
        for name in ("L4", "A10080GB", "H100", "RTXPRO6000")
    ]


def test_cores_of_machines_with_accelerators_are_counted() -> None:
    names = ("g2-standard-24", "a2-highgpu-2g", "a2-megagpu-16g", "a3-highgpu-8g", "a4-highgpu-8g")
    assert [machines.count_cores(name) for name in names] == [24, 24, 96, 208, 224]


def test_locations_that_do_not_exist_are_refused() -> None:
    for name in ("europe-west4", "global", "-"):
        machines.check_region(f"/v1/projects/p/locations/{name}/models")
    with pytest.raises(ApiError, match="Permission denied on 'locations/mars-north1'"):
        machines.check_region("/v1/projects/p/locations/mars-north1/models")


@pytest.mark.parametrize(
    ("body", "message"),
    [
        (b'{"outputs": [1]}', 'no field named "outputs"'),
        (b'{"predictions": "x"}', "predictions"),
        (b'{"predictions": [NaN]}', "NaN is not a number of JSON"),
        (b"[1, 2]", "it is not an object"),
        (b"{}", "the response field predictions is missing"),
        (b"<html>", "it is not JSON"),
    ],
)
def test_response_that_is_no_predict_response_is_an_error(body: bytes, message: str) -> None:
    with pytest.raises(ApiError, match=f"Invalid response from prediction server - .*{message}"):
        parse_predictions(body)


ROW = {"id": 7.0, "age": 40.0, "name": "x"}


@pytest.mark.parametrize(
    ("row", "config", "is_csv", "value", "output"),
    [
        (ROW, {}, True, [7.0, 40.0, "x"], {"instance": [7.0, 40.0, "x"]}),
        (ROW, {}, False, ROW, {"instance": ROW}),
        ([1, 2], {}, False, [1, 2], {"instance": [1, 2]}),
        ("text", {}, False, "text", {"instance": "text"}),
        (
            ROW,
            {"instance_type": "object", "key_field": "id"},
            True,
            {"age": 40.0, "name": "x"},
            {"key": 7.0},
        ),
        (ROW, {"key_field": "id"}, True, [40.0, "x"], {"key": 7.0}),
        (
            ROW,
            {"instance_type": "array", "included_fields": ["name", "age"]},
            False,
            ["x", 40.0],
            {"instance": ["x", 40.0]},
        ),
        (ROW, {"excluded_fields": ["id"]}, False, {"age": 40.0, "name": "x"}, {"instance": ROW}),
    ],
)
def test_instances_are_converted_as_the_instance_config_says(
    row: Any, config: Any, is_csv: bool, value: Any, output: Any
) -> None:
    instance_config = v1.BatchPredictionJob.InstanceConfig(config)
    assert batch_formats.convert(row, instance_config, is_csv=is_csv) == Instance(value, output)


@pytest.mark.parametrize(
    ("row", "config", "message"),
    [
        ([1], {"key_field": "id"}, "must be an object"),
        ("x", {"instance_type": "array"}, "must be an array"),
        ({"a": 1}, {"key_field": "id"}, "no field id"),
        ({"a": 1}, {"instance_type": "array"}, "needs included_fields"),
    ],
)
def test_instances_that_cannot_be_converted_are_an_error(
    row: Any, config: Any, message: str
) -> None:
    instance_config = v1.BatchPredictionJob.InstanceConfig(config)
    with pytest.raises(ApiError, match=message):
        batch_formats.convert(row, instance_config, is_csv=False)


def test_csv_cells_without_quotation_marks_are_numbers() -> None:
    rows = list(batch_formats.read_csv('id,age,"name"\n1,0.5,"a, b"\n\n2,3,"4"\n'))
    assert rows == [{"id": 1, "age": 0.5, "name": "a, b"}, {"id": 2, "age": 3, "name": "4"}]
    with pytest.raises(ApiError, match=r"Line 2 .*strings need quotation marks"):
        list(batch_formats.read_csv("id,name\n1,cat\n"))
    with pytest.raises(ApiError, match=r"Line 2 .*expected 2 cells, got 1"):
        list(batch_formats.read_csv("id,name\n1\n"))


@pytest.mark.parametrize(
    ("fields", "status", "message"),
    [
        ({"input_config": {"instances_format": "xml"}}, 400, "instances_format xml"),
        ({"input_config": {"instances_format": "tf-record"}}, 501, "from tf-record"),
        (
            {
                "input_config": {
                    "instances_format": "bigquery",
                    "bigquery_source": {"input_uri": "bq://x"},
                }
            },
            501,
            "BigQuery",
        ),
        ({"input_config": {"instances_format": "bigquery"}}, 400, "do not match"),
        ({"output_config": {"predictions_format": "csv"}}, 400, "predictions_format csv"),
    ],
)
def test_formats_of_batch_prediction_are_refused_with_a_reason(
    fields: Any, status: int, message: str
) -> None:
    valid = {
        "input_config": {"instances_format": "jsonl"},
        "output_config": {"predictions_format": "jsonl"},
    }
    with pytest.raises(ApiError, match=message) as raised:
        batch_formats.check(v1.BatchPredictionJob({**valid, **fields}))
    assert raised.value.http_status == status


def test_unsupported_method_is_a_501_and_for_gcloud_a_status_that_it_does_not_repeat(
    client: Client,
) -> None:
    path = f"/v1/{PARENT}/customJobs"
    assert client.get(path).status_code == 501
    response = client.get(path, headers={"User-Agent": "google-cloud-sdk gcloud/528.0.0"})
    error = json.loads(response.text)["error"]
    assert (response.status_code, error["code"], error["status"]) == (405, 405, "UNIMPLEMENTED")
    assert "ListCustomJobs of JobService" in error["message"]


@pytest.mark.parametrize(
    ("path", "content", "status", "message"),
    [
        (f"/v1/{PARENT}/endpoints/e:explain", '{"instances": [1]}', 400, "no explanation_spec"),
        ("/emulator/faults", "{", 400, "Invalid JSON payload"),
        ("/emulator/faults", "[]", 400, "mapping"),
        ("/v1/projects/p/locations/mars-north1/endpoints", "{}", 403, "locations/mars-north1"),
    ],
)
def test_control_plane_refuses_requests_with_the_reason(
    client: Client, path: str, content: str, status: int, message: str
) -> None:
    response = client.post(path, data=content)
    assert response.status_code == status
    assert message in json.loads(response.text)["error"]["message"]


def test_locations_are_listed(client: Client) -> None:
    locations = json.loads(client.get("/v1/projects/p/locations").text)["locations"]
    assert {"name": "projects/p/locations/us-central1", "locationId": "us-central1"} in locations


@pytest.mark.parametrize("version", ["v1", "v1beta1"])
def test_operation_has_the_types_of_the_version_that_started_it(
    client: Client, version: str
) -> None:
    started = json.loads(
        client.post(f"/{version}/{PARENT}/endpoints", data='{"displayName": "e"}').text
    )
    wait_for(
        lambda: json.loads(client.get(f"/v1beta1/{started['name']}").text).get("done"),
        10,
        "the endpoint to be created",
    )
    operation = json.loads(client.get(f"/v1beta1/{started['name']}").text)
    assert operation["response"]["@type"].endswith(f"google.cloud.aiplatform.{version}.Endpoint")
    assert operation["response"]["displayName"] == "e"
