"""The pipeline on Vertex AI: submitted, watched and scheduled with Google's SDK, against the emulator."""

import copy
import functools
import operator
import re
import sys
from pathlib import Path
from typing import Any

import pytest
import requests
import yaml
from google.cloud import aiplatform_v1 as v1
from google.cloud import storage
from google.cloud.devtools.cloudbuild_v1 import Build, BuildStep
from google.protobuf import json_format

from contract.docker import Docker
from deploy import places
from deploy.fingerprint import image_tag
from emulator import artifacts
from emulator.stack import Stack
from emulator.state import project_number
from pipeline import __main__ as command_line
from pipeline import checks
from pipeline.steps import STEPS
from pipeline.vertex_runner import steps_tag
from project.model_folder import find_model
from tests.cloud.conftest import PROJECT, TINY, Run, deploy, traffic_by_version  # noqa: F401
from tests.container.conftest import DOCKER
from tests.images import ARCHIVE, ROOT, TOY
from tests.programs import Result, run_main, run_program

pytestmark = pytest.mark.xdist_group("pipeline")
IMAGE = "--image us-central1-docker.pkg.dev/p/models/steps@sha256:1"
TARGET = {"project": PROJECT, "region": "us-central1"}


@pytest.fixture
def pipeline(
    stack: Stack,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
    tmp_path: Path,
) -> Run:
    """Return a function that runs one of the pipeline's programs in this process, against the emulator."""
    for name, value in stack.environment(PROJECT).items():
        monkeypatch.setenv(name, value)
    monkeypatch.setattr(places, "FILE", tmp_path / "last.toml")

    def run(line: str, module: Any = command_line) -> Result:
        return run_main(module.main, f"{line} --project {PROJECT} --region us-central1", capsys)

    return run


def submitted(stack: Stack) -> tuple[v1.PipelineJob, dict[str, Any], dict[str, Any]]:
    """Return the only job, its parameters and its specification."""
    (job,) = stack.state.pipeline_jobs.values()
    content = json_format.MessageToDict(v1.PipelineJob.pb(job))
    return job, content["runtimeConfig"]["parameterValues"], content["pipelineSpec"]


def images(spec: dict[str, Any]) -> set[str]:
    """Return the images that a pipeline's steps run in."""
    executors = spec["deploymentSpec"]["executors"].values()
    return {each["container"]["image"] for each in executors}


def test_pipeline_is_compiled_submitted_and_watched_until_it_ends(
    pipeline: Run, stack: Stack
) -> None:
    ran = pipeline(f"submit {IMAGE} --weights gs://bucket/weights --traffic 20 --wait")
    assert ran.code == 0, ran.err
    job, parameters, spec = submitted(stack)
    assert job.state == v1.PipelineState.PIPELINE_STATE_SUCCEEDED
    assert re.findall(r"^  succeeded +(\w+)", ran.out, re.MULTILINE) == list(STEPS)
    expected = {"serving": "endpoint", "builder": "cloud", "traffic": 20}
    assert parameters.items() >= {"weights": "gs://bucket/weights", **expected}.items()
    assert images(spec) == {IMAGE.split()[1]}
    # The user's own weights can change under the same name, so that step is not cached.
    assert not spec["root"]["dag"]["tasks"]["train"].get("cachingOptions", {}).get("enableCache")
    assert (job.display_name, dict(job.labels), spec["pipelineInfo"]["name"]) == (
        *("toy", {"name": "toy"}),
        "toy",
    )
    # The artifacts are written to a bucket of the project, and the steps read the model's folder there.
    assert job.runtime_config.gcs_output_directory == f"gs://{PROJECT}-pipeline/toy"
    bucket, folder = (
        f"{PROJECT}-pipeline",
        parameters["model"].removeprefix(f"/gcs/{PROJECT}-pipeline/"),
    )
    assert re.fullmatch("toy/source/[0-9a-f]{16}/toy", folder)
    with artifacts.storage_client(stack.state.config) as client:
        stored = {blob.name: blob.download_as_bytes() for blob in client.list_blobs(bucket)}
    for file in TOY.iterdir():
        assert file.is_dir() or stored[f"{folder}/{file.name}"] == file.read_bytes()


def test_archive_instead_of_a_folder_is_rejected(
    pipeline: Run, stack: Stack, monkeypatch: pytest.MonkeyPatch
) -> None:
    ran = pipeline(f"submit {IMAGE} --model {ARCHIVE}")
    assert ran.code == 1
    assert f"{ARCHIVE}: the pipeline packs a model's folder" in ran.err
    monkeypatch.setenv("MODEL", "missing")
    assert "MODEL=missing: no folder missing" in pipeline(f"submit {IMAGE} --model missing").err
    assert not stack.state.pipeline_jobs


@pytest.mark.full
@pytest.mark.parametrize("option", ["--weights build/toy", "--data /pictures", "--serving a.mar"])
def test_local_paths_are_rejected_and_buckets_are_mounted(
    pipeline: Run, stack: Stack, option: str
) -> None:
    ran = pipeline(f"submit {IMAGE} {option}")
    assert ran.code == 1
    assert f"{option}: steps on Vertex AI cannot read files of this machine" in ran.err
    assert not stack.state.pipeline_jobs
    if option.startswith("--data"):
        assert pipeline(f"submit {IMAGE} --data gs://bucket/pictures").code == 0
        assert submitted(stack)[1]["data"] == "/gcs/bucket/pictures"


@pytest.mark.full
def test_bucket_of_that_name_in_another_project_is_not_used(
    pipeline: Run, stack: Stack, monkeypatch: pytest.MonkeyPatch
) -> None:
    # The emulator has no projects: an empty list stands for one that lacks another project's bucket.
    with artifacts.storage_client(stack.state.config) as client:
        if client.lookup_bucket(f"{PROJECT}-pipeline") is None:
            client.create_bucket(f"{PROJECT}-pipeline")
    monkeypatch.setattr(storage.Client, "list_buckets", lambda *_, **__: [])
    ran = pipeline(f"submit {IMAGE}")
    assert ran.code == 1
    assert f"gs://{PROJECT}-pipeline belongs to another project" in ran.err
    assert "--pipeline-root gs://" in ran.err
    assert not stack.state.pipeline_jobs


@pytest.mark.full
@pytest.mark.parametrize(
    ("fault", "out", "err"),
    [
        (
            ("failing", "RunPipelineJob", "FAILED_PRECONDITION the candidate is worse"),
            "failed     train",
            ["the pipeline ended in state failed: the candidate is worse"],
        ),
        (
            ("denied", "CreatePipelineJob", "aiplatform.pipelineJobs.create"),
            "",
            ["aiplatform.pipelineJobs.create", "--role=roles/aiplatform.user"],
        ),
    ],
    ids=["failed job", "missing role"],
)
def test_failure_is_reported_with_its_reason(
    pipeline: Run, stack: Stack, fault: tuple[str, str, str], out: str, err: list[str]
) -> None:
    stack.inject_fault(*fault)
    ran = pipeline(f"submit {IMAGE} --wait")
    assert ran.code == 1
    assert out in ran.out
    assert all(each in ran.err for each in err), ran.err
    assert fault[0] == "failing" or not stack.state.pipeline_jobs


@pytest.mark.full
def test_schedule_is_created_listed_and_deleted(pipeline: Run, stack: Stack) -> None:
    cron = "TZ=Europe/Berlin 0 3 * * 1"
    ran = pipeline(f'submit {IMAGE} --cron "{cron}" --run-as me@p.iam.gserviceaccount.com')
    assert ran.code == 0, ran.err
    (schedule,) = stack.state.schedules.values()
    assert (schedule.cron, schedule.max_concurrent_run_count) == (cron, 1)
    assert schedule.create_pipeline_job_request.pipeline_job.service_account.startswith("me@")
    assert not stack.state.pipeline_jobs
    assert f"active  {cron}" in pipeline("schedules").out
    assert f"deleted: {schedule.name}" in pipeline("unschedule").out
    assert "no schedules of toy" in pipeline("schedules").out


@pytest.mark.full
@pytest.mark.parametrize(
    ("path", "value", "message"),
    [
        ("runtimeConfig.parameterValues.colour", "red", "colour is not an input"),
        ("runtimeConfig.parameterValues.traffic", "five", "traffic is 'five'"),
        ("pipelineSpec.components", None, "does not exist"),
        ("runtimeConfig.gcsOutputDirectory", "/tmp/x", "not a Cloud Storage URI"),
        ("runtimeConfig.gcsOutputDirectory", "gs://none/x", "none does not exist"),
        (
            "runtimeConfig.gcsOutputDirectory",
            None,
            "not set: pipeline_job.runtime_config.gcs_output_directory",
        ),
        ("serviceAcount", "me", 'Unknown name "serviceAcount"'),
    ],
)
def test_emulator_rejects_an_invalid_job(
    stack: Stack, path: str, value: str | None, message: str
) -> None:
    with artifacts.storage_client(stack.state.config) as client:
        if client.lookup_bucket("pipeline-bucket") is None:
            client.create_bucket("pipeline-bucket")
    spec = yaml.safe_load((ROOT / "pipeline/pipeline.yaml").read_text())
    values = {"model": "/gcs/b/toy", "traffic": 2}
    config = {"gcsOutputDirectory": "gs://pipeline-bucket/x", "parameterValues": values}
    url = f"{stack.url}/v1/projects/p/locations/us-central1/pipelineJobs?pipelineJobId=job"
    good = {"displayName": "d", "pipelineSpec": spec, "runtimeConfig": config}
    bad: Any = copy.deepcopy(good)
    *parents, last = path.split(".")
    parent = functools.reduce(operator.getitem, parents, bad)
    parent[last] = value
    if value is None:
        del parent[last]
    response = requests.post(url, json=bad, timeout=30)
    assert response.status_code in (400, 404), response.text
    assert message in response.json()["error"]["message"]
    assert requests.post(url, json=good, timeout=30).status_code == 200


@pytest.mark.full
def test_second_version_becomes_a_canary_and_is_promoted(deploy: Run, stack: Stack) -> None:  # noqa: F811
    """Run the pipeline's steps on tiny images."""
    for version in ("1", "2"):
        assert deploy(f"upload --image {TINY}:{version}").code == 0
        run_step(stack, "canary", version, ", traffic=20")
        if version == "2":
            assert traffic_by_version(stack) == {"1": 80, "2": 20}
        run_step(stack, "promote", version)
        assert traffic_by_version(stack)[version] == 100


def run_step(stack: Stack, name: str, version: str, arguments: str = "") -> None:
    """Run a step in a process of its own, as kfp does."""
    call = f"steps.{name}('tests/toy', {version!r}, **{TARGET!r}{arguments})"
    env = {"PIPELINE_PYTHON": sys.executable, "DEPLOY_IMAGE": f"{TINY}:{version}"}
    done = run_program(
        [sys.executable, "-c", f"from pipeline import steps; {call}"],
        stack.environment(PROJECT) | env,
    )
    assert done.code == 0, done.out + done.err


@pytest.mark.full
def test_only_an_image_tested_by_cloud_build_passes_the_contract_step(
    pipeline: Run, stack: Stack
) -> None:
    name = f"projects/{project_number(PROJECT)}/locations/us-central1/builds/b"
    build = Build(
        name=name,
        id="b",
        status="SUCCESS",
        substitutions={"_TAG": image_tag(find_model("tests/toy"), root=ROOT)},
    )
    build.steps = [BuildStep(id="tests", name="n", status="FAILURE")]
    stack.state.builds[name] = build
    untested = pipeline("contract", checks)
    assert untested.code == 1
    assert "against the container contract" in untested.err
    build.steps[0].status = Build.Status.SUCCESS
    tested = pipeline("contract", checks)
    assert tested.code == 0, tested.err
    assert "in step tests of build b" in tested.out


@pytest.mark.full
def test_existing_image_of_the_steps_is_not_built_again(
    pipeline: Run, stack: Stack, tmp_path: Path
) -> None:
    docker, image = Docker(DOCKER), f"{stack.registry}/{PROJECT}/models/pipeline-steps"
    (tmp_path / "Dockerfile").write_text("FROM scratch\nCOPY Dockerfile /\n")
    docker("build", "--quiet", "--tag", f"{image}:{steps_tag()}", str(tmp_path))
    pushed = docker("push", f"{image}:{steps_tag()}")
    docker("image", "rm", f"{image}:{steps_tag()}")
    ran = pipeline("submit")
    assert ran.code == 0, ran.err
    digest = re.search(r"sha256:[0-9a-f]{64}", pushed)
    assert digest is not None
    assert images(submitted(stack)[2]) == {f"{image}@{digest[0]}"}
    assert not stack.state.builds
