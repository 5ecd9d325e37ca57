"""What goes wrong at Google's: one clear sentence, what to do, and a re-run that picks up."""

from io import StringIO
from pathlib import Path

import pytest

from emulator.stack import Stack
from tests.cloud.conftest import Run, count_containers, traffic_by_version

pytestmark = pytest.mark.full
SECOND = {"DEPLOY_IMAGE": "cloud-tests/tiny:2"}


def env_file(tmp_path: Path, **env: str) -> str:
    """Return the option for settings with this container environment."""
    file = tmp_path / "deploy.toml"
    file.write_text("[env]\n" + "".join(f'{name} = "{value}"\n' for name, value in env.items()))
    return f"--settings {file}"


def one_sentence(err: str) -> str:
    """Return what happened; there is no traceback, and a line that says what to do."""
    lines = err.strip().splitlines()
    assert lines[0].startswith("deploy: "), err
    assert "Traceback" not in err
    assert len(lines) >= 2, "it does not say what to do"
    return lines[0]


@pytest.mark.parametrize(
    ("fault", "sentence"), [("sick", "never got healthy"), ("exits", "ended by itself")]
)
def test_a_container_that_never_gets_healthy(
    deploy: Run, stack: Stack, tmp_path: Path, fault: str, sentence: str
) -> None:
    assert deploy("deploy").code == 0
    failed = deploy(f"deploy {env_file(tmp_path, FAULT=fault)}")
    assert failed.code == 1
    assert sentence in one_sentence(failed.err)
    assert "make contract" in failed.err
    assert fault == "sick" or "the weights are cut short" in failed.err
    assert traffic_by_version(stack) == {"1": 100}
    assert count_containers(stack) == 1, "what failed still costs"
    assert "not finished: deploy of version 2" in deploy("status").out
    back = deploy("rollback")
    assert "version 1 serves everything again" in back.out
    assert "not finished" not in deploy("status").out


DENIED = ("denied", "DeployModel", "aiplatform.endpoints.deploy")
REFUSALS = {
    "an image that does not exist": (
        "deploy --image cloud-tests/nothing:1",
        (),
        "the image is not in the registry",
        ["make push"],
    ),
    "more cores than the quota has": (
        "deploy --machine-type n1-standard-32",
        (),
        "a quota is used up",
        ["CustomModelServingCPUs", "--idle"],
    ),
    "an accelerator without quota": (
        "deploy --accelerator-type NVIDIA_TESLA_T4 --accelerator-count 1 --machine-type n1-standard-4",
        (),
        "a quota is used up",
        ["TeslaT4"],
    ),
    "a permission that is found missing before anything is begun": (
        "endpoint",
        DENIED,
        "aiplatform.endpoints.deploy",
        [
            "gcloud projects add-iam-policy-binding cloud-tests",
            "--role=roles/aiplatform.user",
        ],
    ),
    "a permission that is refused midway": (
        "deploy",
        ("denied", "CreateEndpoint", "aiplatform.endpoints.create"),
        "the permission aiplatform.endpoints.create is missing",
        [],
    ),
    "an API that is not enabled": (
        "upload",
        ("disabled", "ListModelVersions", "aiplatform.googleapis.com"),
        "the API aiplatform.googleapis.com is not enabled in cloud-tests",
        ["gcloud services enable aiplatform.googleapis.com --project=cloud-tests"],
    ),
    "an operation that fails midway": (
        "deploy",
        ("failing", "DeployModel.midway", "INTERNAL the machine went away"),
        "the machine went away",
        [],
    ),
}
"""Name → command, failure that is ordered, what the first line has, what the lines after it have."""


@pytest.mark.parametrize("case", REFUSALS.values(), ids=REFUSALS)
def test_a_refusal_is_explained_costs_nothing_and_a_re_run_goes_on(
    deploy: Run, stack: Stack, case: tuple[str, tuple[str, str, str], str, list[str]]
) -> None:
    line, fault, sentence, advice = case
    if fault:
        stack.fault(*fault)
    failed = deploy(line)
    assert failed.code == 1
    assert sentence in one_sentence(failed.err)
    assert all(each in failed.err for each in advice), failed.err
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
def test_a_cut_connection_google_busy_and_somebody_elses_change_are_tried_again(
    deploy: Run, stack: Stack, kind: str, rpc: str, detail: str
) -> None:
    stack.fault(kind, rpc, detail, times=2)
    done = deploy("deploy")
    assert done.code == 0, done.err
    assert not any(each.times for each in stack.state.faults.pending), "it was not called"
    assert traffic_by_version(stack) == {"1": 100}
    assert count_containers(stack) == 1


def test_a_deploy_under_way_is_waited_for_and_not_begun_twice(deploy: Run, stack: Stack) -> None:
    assert deploy("deploy").code == 0
    stack.fault("refused", "GetOperation", "INVALID_ARGUMENT stop here")
    assert deploy("deploy", **SECOND).code == 1
    done = deploy("deploy", **SECOND)
    assert done.code == 0, done.err
    assert count_containers(stack) == 2


def test_another_models_endpoint_is_not_touched(deploy: Run, stack: Stack) -> None:
    assert deploy("deploy").code == 0
    for endpoint in stack.state.endpoints.values():
        endpoint.deployed_models[0].model = endpoint.deployed_models[0].model.replace(
            "digits", "faces"
        )
    for line in ("deploy", "canary", "rollback", "undeploy --yes", "teardown --yes"):
        failed = deploy(line, **SECOND)
        assert "also serves another model: faces" in one_sentence(failed.err)
    assert count_containers(stack) == 1


def test_what_costs_elsewhere_in_the_region_is_found(deploy: Run) -> None:
    assert deploy("deploy --name forgotten").code == 0
    told = deploy("status").out
    assert "another endpoint, forgotten" in told
    assert "about $0.0" in told


def test_no_project_is_said_and_how_to_name_one(
    deploy: Run, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv("CLOUDSDK_CORE_PROJECT")
    failed = deploy("status")
    assert "no project is named" in one_sentence(failed.err)
    assert deploy("status --project demo-project").code == 0
    assert "demo-project" in deploy("status").out, "the project is typed twice"


def test_nobody_there_to_agree_deletes_nothing(
    deploy: Run, stack: Stack, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert deploy("deploy").code == 0
    for answer in ("", "no\n", "digit\n"):
        monkeypatch.setattr("sys.stdin", StringIO(answer))
        failed = deploy("teardown")
        assert "nothing was deleted" in one_sentence(failed.err)
        assert traffic_by_version(stack) == {"1": 100}
    monkeypatch.setattr("sys.stdin", StringIO("digits\n"))
    assert deploy("teardown").code == 0
    assert not stack.state.endpoints
