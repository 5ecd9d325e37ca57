"""Tests that the schemas of a model are uploaded beside its artifacts, and checked by the emulator."""

from collections.abc import Iterator

import pytest
import requests
import yaml
from google.cloud import aiplatform_v1 as v1
from google.cloud.storage import Bucket

from emulator import artifacts
from emulator.stack import Stack
from tests.cloud.conftest import PROJECT, REGION, TINY, Run

FOLDER = "gs://schemata/models/toy"


@pytest.fixture
def bucket(stack: Stack) -> Iterator[Bucket]:
    """Yield the empty bucket of the artifact folder."""
    with artifacts.storage_client(stack.state.config) as storage:
        bucket = storage.create_bucket("schemata")
        yield bucket
        bucket.delete(force=True)


def uploaded_model(stack: Stack) -> v1.Model:
    """Return the only version of the only model."""
    (versions,) = stack.state.models.values()
    (model,) = versions.values()
    return model


def test_schemas_are_uploaded_with_a_model_that_has_an_artifact_folder(
    deploy: Run, stack: Stack, bucket: Bucket
) -> None:
    done = deploy("upload", DEPLOY_ARTIFACT_URI=FOLDER)
    assert done.code == 0, done.err
    schemata = uploaded_model(stack).predict_schemata
    assert schemata.instance_schema_uri == f"{FOLDER}/schema/instance.yaml"
    assert schemata.parameters_schema_uri == f"{FOLDER}/schema/parameters.yaml"
    assert schemata.prediction_schema_uri == f"{FOLDER}/schema/prediction.yaml"
    schema = yaml.safe_load(bucket.blob("models/toy/schema/instance.yaml").download_as_text())
    assert schema["type"] == "object"
    assert list(schema["properties"]) == ["b64"]
    again = deploy("upload", DEPLOY_ARTIFACT_URI=FOLDER)
    assert "the image is version 1" in again.out
    dry = deploy("upload --dry-run", DEPLOY_ARTIFACT_URI=f"{FOLDER}-2")
    assert "would call storage.objects.insert" in dry.out


def test_model_without_an_artifact_folder_has_no_schemas(
    deploy: Run, stack: Stack, bucket: Bucket
) -> None:
    assert deploy("upload").code == 0
    assert not uploaded_model(stack).predict_schemata.instance_schema_uri
    assert not list(bucket.list_blobs())


def test_model_whose_artifact_folder_holds_an_archive_has_no_schemas(
    deploy: Run, stack: Stack, bucket: Bucket
) -> None:
    bucket.blob("models/toy/model.mar").upload_from_string("an archive with a model of its own")
    assert deploy("upload", DEPLOY_ARTIFACT_URI=FOLDER).code == 0
    assert not uploaded_model(stack).predict_schemata.instance_schema_uri


def test_artifact_folder_in_a_bucket_that_does_not_exist_is_refused_before_the_upload(
    deploy: Run, stack: Stack
) -> None:
    done = deploy("upload", DEPLOY_ARTIFACT_URI="gs://no-such-bucket/toy")
    assert done.code == 1
    assert "the bucket gs://no-such-bucket does not exist" in done.err
    assert "gcloud storage buckets create gs://no-such-bucket" in done.err
    assert not stack.state.models


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (None, "No object found at gs://schemata/x.yaml"),
        ("type: [", "gs://schemata/x.yaml is not YAML"),
        ("word", "gs://schemata/x.yaml is not a schema"),
    ],
)
def test_emulator_rejects_a_schema_that_does_not_exist_or_is_not_yaml(
    stack: Stack, bucket: Bucket, content: str | None, message: str
) -> None:
    if content is not None:
        bucket.blob("x.yaml").upload_from_string(content)
    model = {
        "displayName": "m",
        "containerSpec": {"imageUri": f"{TINY}:1"},
        "predictSchemata": {"predictionSchemaUri": "gs://schemata/x.yaml"},
    }
    url = f"{stack.url}/v1/projects/{PROJECT}/locations/{REGION}/models:upload"
    response = requests.post(url, json={"model": model}, timeout=60)
    assert response.status_code in (400, 404)
    assert message in response.json()["error"]["message"]
    assert not stack.state.models
