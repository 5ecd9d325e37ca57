"""Tests of the commands: from an empty project to a deployment and back, dry runs, types of endpoints."""

import json
from typing import Any

import pytest
import requests

from deploy import places
from emulator.stack import Stack
from tests.cloud.conftest import Run, count_containers, traffic_by_version
from tests.images import REQUESTS

SECOND = {"DEPLOY_IMAGE": "cloud-tests/tiny:2"}
COMMANDS = {
    "endpoint": "DeployModel",
    "upload": "UploadModel",
    "deploy": "DeployModel",
    "canary": "DeployModel",
    "promote": "UpdateEndpoint",
    "rollback": "UndeployModel",
    "predict": "Predict",
    "batch-predict --input gs://bucket/in.jsonl --output gs://bucket/out": "CreateBatchPredictionJob",
    "undeploy": "UndeployModel",
    "teardown": "DeleteEndpoint",
}


@pytest.fixture
def requests_sent(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """Return the list of the requests that are sent, which grows."""
    sent: list[str] = []
    send = requests.Session.send

    def send_and_record(
        self: requests.Session, request: requests.PreparedRequest, **options: Any
    ) -> requests.Response:
        sent.append(f"{request.method} {request.path_url.partition('?')[0]}")
        return send(self, request, **options)

    monkeypatch.setattr(requests.Session, "send", send_and_record)
    return sent


def test_commands_deploy_release_and_delete_a_model(
    deploy: Run, stack: Stack, requests_sent: list[str]
) -> None:
    assert "missing.json does not exist" in deploy("endpoint --request missing.json").err
    assert not stack.state.models
    first = deploy("endpoint")
    assert first.code == 0, first.err
    assert "from deployed model" in first.out
    assert traffic_by_version(stack) == {"1": 100}
    requests_sent.clear()
    assert "nothing changed" in deploy("endpoint").out
    changing = [request for request in requests_sent if not request.startswith(("GET", "HEAD"))]
    assert [request.rpartition(":")[2] for request in changing] == [
        *("testIamPermissions", *["predict"] * len(json.loads(REQUESTS.read_text())))
    ]
    for line, shares in (
        ("canary --traffic 10", {"1": 90, "2": 10}),
        ("promote", {"1": 0, "2": 100}),
        ("rollback", {"1": 100}),
    ):
        done = deploy(line, **SECOND)
        assert done.code == 0, done.err
        assert traffic_by_version(stack) == shares
    assert '"predictions"' in deploy("predict").out
    assert "version 1, deployed model" in deploy("status").out
    assert deploy("teardown --yes").code == 0
    assert not stack.state.endpoints
    assert not stack.state.models
    assert count_containers(stack) == 0


@pytest.mark.full
def test_status_and_teardown_find_every_region_in_which_the_name_was_deployed(
    deploy: Run, stack: Stack
) -> None:
    assert deploy("teardown --yes").code == 0  # the sources of the builds of other tests
    assert deploy("deploy --region europe-west4").code == 0
    assert deploy("deploy --region us-east1 --project second-project").code == 0
    # From now on only --all-regions finds what was deployed, as if another machine had done it.
    places.FILE.with_name("emulator.toml").unlink()
    assert deploy("deploy --region asia-east1").code == 0
    shown = deploy("status --region us-central1")
    assert "cloud-tests, asia-east1" in shown.out
    assert "another" not in shown.out
    assert "cost: about $0.08 an hour" in shown.out
    assert "cloud-tests, europe-west4\n  endpoint toy: 1 deployed" in (
        deploy("status --region us-central1 --all-regions").out
    )
    done = deploy("teardown --yes --all-regions --region us-central1")
    assert done.code == 0, done.err
    assert "cloud-tests, us-central1: nothing of toy to delete" in done.out
    for region in ("asia-east1", "europe-west4"):
        assert f"cloud-tests, {region}: nothing of toy is left, no more hourly costs" in done.out
    assert count_containers(stack) == 1
    assert deploy("teardown --yes --region us-east1 --project second-project").code == 0
    assert count_containers(stack) == 0
    assert not stack.state.models


@pytest.mark.full
@pytest.mark.parametrize("line", COMMANDS)
def test_dry_run_prints_the_calls_and_changes_nothing(
    deploy: Run, stack: Stack, requests_sent: list[str], line: str
) -> None:
    assert deploy("deploy").code == 0
    if line in ("promote", "rollback"):
        assert deploy("canary", **SECOND).code == 0
    before = traffic_by_version(stack)
    requests_sent.clear()
    done = deploy(f"{line} --dry-run", **SECOND)
    assert done.code == 0, done.err
    assert "would call " in done.out
    assert COMMANDS[line] in done.out
    changing = [
        request
        for request in requests_sent
        if not request.startswith(("GET", "HEAD")) and "testIam" not in request
    ]
    assert changing == []
    assert traffic_by_version(stack) == before
    assert len(stack.state.models) == 1


@pytest.mark.full
def test_shared_endpoint_is_rejected_if_a_dedicated_one_is_set(deploy: Run, stack: Stack) -> None:
    assert deploy("deploy").code == 0
    failed = deploy("deploy --dedicated", **SECOND)
    assert failed.code == 1
    assert "toy is a shared endpoint, but dedicated = true" in failed.err
    assert traffic_by_version(stack) == {"1": 100}


@pytest.mark.full
@pytest.mark.parametrize(
    ("builder", "programs"),
    [("cloud", ["gcloud builds submit"]), ("local", ["make build", "docker tag", "docker push"])],
)
def test_dry_run_of_build_prints_the_programs_and_runs_none(
    deploy: Run, requests_sent: list[str], builder: str, programs: list[str]
) -> None:
    done = deploy(f"build --builder {builder} --dry-run", DEPLOY_IMAGE="", DOCKER="docker")
    assert done.code == 0, done.err
    assert "would call ArtifactRegistry.CreateRepository" in done.out
    for program in programs:
        assert f"would run {program}" in done.out
    assert not [request for request in requests_sent if not request.startswith(("GET", "HEAD"))]


@pytest.mark.full
def test_dedicated_endpoint_is_created_and_called_at_its_own_domain(
    deploy: Run, stack: Stack
) -> None:
    done = deploy("endpoint --dedicated")
    assert done.code == 0, done.err
    assert "from deployed model" in done.out
    assert deploy("predict --dedicated").code == 0
    assert [endpoint.dedicated_endpoint_enabled for endpoint in stack.state.endpoints.values()] == [
        True
    ]


@pytest.mark.full
def test_messages_name_the_model_whose_commands_come_next(deploy: Run) -> None:
    failed = deploy("rollback")
    assert "endpoint toy does not exist" in failed.err
    assert "make deploy-endpoint MODEL=tests/toy" in failed.err
    assert deploy("deploy").code == 0
    assert "next: make promote MODEL=tests/toy" in deploy("canary", **SECOND).out
    assert "gcloud ai endpoints predict toy " in deploy("endpoint", **SECOND).out
