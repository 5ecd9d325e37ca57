"""Tests of failures at Google: a message, a hint, and a repeated command that continues."""

from io import StringIO
from pathlib import Path

import pytest

from emulator.stack import Stack
from tests.cloud.conftest import Run, count_containers, traffic_by_version

pytestmark = pytest.mark.full
SECOND = {"DEPLOY_IMAGE": "cloud-tests/tiny:2"}


def env_file(tmp_path: Path, **env: str) -> str:
    """Write a settings file with this container environment, and return the option for it."""
    file = tmp_path / "deploy.toml"
    file.write_text("[env]\n" + "".join(f'{name} = "{value}"\n' for name, value in env.items()))
    return f"--settings {file}"


def message(err: str) -> str:
    """Return the message in the output of a failed command, which also has a hint and no traceback."""
    place, *lines = err.strip().splitlines()
    if not place.startswith("project "):  # the settings are invalid
        lines.insert(0, place)
    assert lines[0].startswith("deploy: "), err
    assert "Traceback" not in err
    assert len(lines) >= 2, "there is no hint"
    return lines[0]


@pytest.mark.parametrize(
    ("fault", "expected"),
    [("sick", "the container did not become healthy"), ("exits", "the container exited")],
)
def test_unhealthy_container_fails_its_deployment_and_rollback_undoes_it(
    deploy: Run, stack: Stack, tmp_path: Path, fault: str, expected: str
) -> None:
    assert deploy("deploy").code == 0
    failed = deploy(f"deploy {env_file(tmp_path, FAULT=fault)}")
    assert failed.code == 1
    assert expected in message(failed.err)
    assert "make contract" in failed.err
    assert fault == "sick" or "the weights are cut short" in failed.err
    assert traffic_by_version(stack) == {"1": 100}
    assert count_containers(stack) == 1, "the failed container still runs"
    assert "not finished: deploy of version 2" in deploy("status").out
    back = deploy("rollback")
    assert "version 1 serves all traffic again" in back.out
    assert "not finished" not in deploy("status").out


def test_endpoint_waits_a_little_longer_than_its_container(
    deploy: Run, stack: Stack, tmp_path: Path
) -> None:
    slow = env_file(tmp_path, RESPONSE_TIMEOUT_S="900")
    failed = deploy(f"deploy {slow}")
    assert "a shared endpoint waits 60 s at most" in message(failed.err)
    assert "dedicated = true" in failed.err
    assert not stack.state.endpoints
    assert deploy(f"deploy --dedicated {slow}").code == 0
    assert waits_s(stack) == [910]
    assert deploy(f"deploy --dedicated {env_file(tmp_path, RESPONSE_TIMEOUT_S='30')}").code == 0
    assert waits_s(stack) == [40]


def waits_s(stack: Stack) -> list[float]:
    endpoints = stack.state.endpoints.values()
    configs = [endpoint.client_connection_config for endpoint in endpoints]
    return [config.inference_timeout.total_seconds() for config in configs]


DENIED = ("denied", "DeployModel", "aiplatform.endpoints.deploy")
REJECTIONS = {
    "an image that does not exist": (
        "deploy --image cloud-tests/nothing:1",
        (),
        "image not found",
        ["make push"],
    ),
    "more cores than the quota has": (
        "deploy --machine-type n1-standard-32",
        (),
        "quota exceeded",
        ["CustomModelServingCPUs", "--idle"],
    ),
    "an accelerator without quota": (
        "deploy --accelerator-type NVIDIA_TESLA_T4 --accelerator-count 1 --machine-type n1-standard-4",
        (),
        "quota exceeded",
        ["ServingT4GPUs", "and 2 NVIDIA_TESLA_T4"],
    ),
    "a permission that is missing at the start": (
        "endpoint",
        DENIED,
        "aiplatform.endpoints.deploy",
        [
            "gcloud projects add-iam-policy-binding cloud-tests",
            "--role=roles/aiplatform.user",
        ],
    ),
    "a permission that is missing during the rollout": (
        "deploy",
        ("denied", "CreateEndpoint", "aiplatform.endpoints.create"),
        "aiplatform.endpoints.create is missing",
        [],
    ),
    "an API that is not enabled": (
        "upload",
        ("disabled", "ListModelVersions", "aiplatform.googleapis.com"),
        "the API aiplatform.googleapis.com is not enabled in cloud-tests",
        ["gcloud services enable aiplatform.googleapis.com --project=cloud-tests"],
    ),
    "an operation that fails": (
        "deploy",
        ("failing", "DeployModel.midway", "INTERNAL the machine went away"),
        "the machine went away",
        [],
    ),
}
"""Name → command, injected fault, part of the message, parts of the hint."""


@pytest.mark.parametrize("case", REJECTIONS.values(), ids=REJECTIONS)
def test_rejection_has_a_message_and_a_hint_and_a_repeated_command_succeeds(
    deploy: Run, stack: Stack, case: tuple[str, tuple[str, str, str], str, list[str]]
) -> None:
    line, fault, expected, hints = case
    if fault:
        stack.inject_fault(*fault)
    failed = deploy(line)
    assert failed.code == 1
    assert expected in message(failed.err)
    assert all(hint in failed.err for hint in hints), failed.err
    assert count_containers(stack) == 0
    assert fault != DENIED or not stack.state.models
    stack.clear_faults()
    again = deploy("deploy")
    assert again.code == 0, again.err
    assert traffic_by_version(stack)[max(traffic_by_version(stack))] == 100


@pytest.mark.parametrize(
    ("kind", "rpc", "detail"),
    [
        ("cut", "GetOperation", ""),
        ("cut", "DeployModel", ""),
        ("cut", "UpdateEndpoint", ""),
        ("cut", "UploadModel", ""),
        ("cut", "CreateEndpoint", ""),
        ("cut", "GetEndpoint", ""),
        ("refused", "GetOperation", "UNAVAILABLE the service is currently unavailable"),
        ("refused", "UpdateEndpoint", "ABORTED the etag is not the current one"),
    ],
)
def test_transient_errors_are_retried(
    deploy: Run, stack: Stack, kind: str, rpc: str, detail: str
) -> None:
    stack.inject_fault(kind, rpc, detail, times=2)
    done = deploy("deploy")
    assert done.code == 0, done.err
    assert not any(fault.times for fault in stack.state.faults.pending), "it was not called"
    assert traffic_by_version(stack) == {"1": 100}
    assert count_containers(stack) == 1


def test_repeated_deploy_waits_for_the_pending_operation(deploy: Run, stack: Stack) -> None:
    assert deploy("deploy").code == 0
    stack.inject_fault("refused", "GetOperation", "INVALID_ARGUMENT stop here")
    assert deploy("deploy", **SECOND).code == 1
    done = deploy("deploy", **SECOND)
    assert done.code == 0, done.err
    assert count_containers(stack) == 2


def test_endpoint_of_another_model_is_not_changed(deploy: Run, stack: Stack) -> None:
    assert deploy("deploy").code == 0
    for endpoint in stack.state.endpoints.values():
        endpoint.deployed_models[0].model = endpoint.deployed_models[0].model.replace(
            "toy", "faces"
        )
    for line in ("deploy", "canary", "rollback", "undeploy --yes", "teardown --yes"):
        failed = deploy(line, **SECOND)
        assert "also serves another model: faces" in message(failed.err)
    assert count_containers(stack) == 1


def test_status_shows_other_endpoints_of_the_region(deploy: Run) -> None:
    assert deploy("deploy --name forgotten").code == 0
    output = deploy("status").out
    assert "another endpoint, forgotten" in output
    assert "about $0.0" in output


def test_project_is_required_once(deploy: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("CLOUDSDK_CORE_PROJECT")
    failed = deploy("status")
    assert "no project is set" in message(failed.err)
    assert deploy("status --project demo-project").code == 0
    assert "no project is set" in message(deploy("status").err), "status saved a project"
    assert deploy("upload --project demo-project").code == 0
    assert "demo-project" in deploy("status").out, "the project was not saved"


def test_teardown_without_confirmation_deletes_nothing(
    deploy: Run, stack: Stack, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert deploy("deploy").code == 0
    for answer in ("", "no\n", "to\n"):
        monkeypatch.setattr("sys.stdin", StringIO(answer))
        failed = deploy("teardown")
        assert "nothing was deleted" in message(failed.err)
        assert traffic_by_version(stack) == {"1": 100}
    monkeypatch.setattr("sys.stdin", StringIO("toy\n"))
    assert deploy("teardown").code == 0
    assert not stack.state.endpoints
