"""Tests of the page's target on Vertex AI: it sends to the deployed endpoint, and names it for gcloud."""

import json

import pytest

from authoring.page.targets import Endpoint, TargetError, find_endpoint, open_endpoint
from emulator.stack import Stack
from tests.cloud.conftest import PROJECT, REGION, Run

OPTIONS: dict[str, str | None] = {"name": "toy", "project": PROJECT, "region": REGION}


def test_the_page_sends_to_the_deployed_endpoint_and_shows_its_errors(
    deploy: Run, stack: Stack
) -> None:
    assert deploy("endpoint --name toy").code == 0
    target = open_endpoint(OPTIONS)
    assert target.endpoint == find_endpoint(OPTIONS) == Endpoint("toy", PROJECT, REGION)
    path = f"projects/{PROJECT}/locations/{REGION}/endpoints/toy:predict"
    assert target.url == f"{stack.url}/v1/{path}"
    code, body = target.predict(b'{"instances": ["a text", 3]}')
    assert code == 200
    assert json.loads(body)["predictions"] == ["a text", 3]
    code, parts = target.stream(b'{"instances": ["a"], "parameters": {"stream": true}}')
    assert (code, list(parts)) == (200, [b'"a"\n'])
    code, body = target.predict(b'{"instances": [{"invalid": true}]}')
    assert code == 400
    assert json.loads(body)["error"]["message"] == "instances[0]: invalid"
    code, body = target.predict(b'{"instances": [{"exit": true}]}')
    assert code == 502
    assert "predicting" in json.loads(body)["error"]["message"]


def test_an_invalid_project_is_an_error_of_one_line() -> None:
    with pytest.raises(TargetError, match=r"should be a project ID.*; fix this setting"):
        open_endpoint(OPTIONS | {"project": "NOT A PROJECT"})
