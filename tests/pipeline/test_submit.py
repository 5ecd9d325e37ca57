"""The pipeline at Vertex AI: submitted, watched, scheduled, by Google's SDK, held to Google's types."""

import json
import os
import re
import shlex
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import requests
import yaml
from google.cloud import aiplatform_v1 as v1
from google.cloud import storage
from google.cloud.devtools.cloudbuild_v1 import Build, BuildStep
from google.protobuf import json_format

from deploy import settings
from deploy.image import fingerprint
from pipeline import __main__ as command_line
from pipeline import sources
from pipeline.cloud import IN_THE_IMAGE
from rehearsal import artifacts
from rehearsal.stage import Stage
from rehearsal.world import number
from tests.cloud.conftest import PROJECT, TINY, Done, Run, clear, deploy, traffic  # noqa: F401
from tests.container.conftest import docker
from tests.pictures import ROOT
from tests.unit.test_cloudbuild import loaded, problems

IMAGE = "--image us-central1-docker.pkg.dev/p/models/steps@sha256:1"
State = v1.PipelineState


@pytest.fixture
def pipeline(
    empty: Stage,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
    tmp_path: Path,
) -> Run:
    """Return a function that runs python -m pipeline, in this process, against the rehearsal."""
    for name, value in empty.environment(PROJECT).items():
        monkeypatch.setenv(name, value)
    monkeypatch.setattr(settings, "LAST", tmp_path / "last.toml")

    def run(line: str) -> Done:
        code: Any = 0
        try:
            command_line.main(shlex.split(f"{line} --project {PROJECT} --region us-central1"))
        except SystemExit as end:
            code = end.code
        out, err = capsys.readouterr()
        return Done(code, out, err)

    return run


def jobs(stage: Stage) -> list[v1.PipelineJob]:
    return list(stage.world.pipelines.values())


def given(job: v1.PipelineJob) -> dict[str, Any]:
    """Return a job's parameters."""
    return dict(
        json_format.MessageToDict(v1.PipelineJob.pb(job))["runtimeConfig"]["parameterValues"]
    )


def test_it_is_compiled_submitted_and_watched_to_its_end(pipeline: Run, empty: Stage) -> None:
    ran = pipeline(f"submit {IMAGE} --weights gs://bucket/weights --traffic 20 --wait")
    assert ran.code == 0, ran.err
    (job,) = jobs(empty)
    assert job.state == State.PIPELINE_STATE_SUCCEEDED
    assert [line.split()[1] for line in ran.out.splitlines() if line.startswith("  succeeded")] == [
        "train",
        "evaluate",
        "gate",
        "export",
        "archive",
        "build",
        "contract",
        "upload",
        "canary",
        "promote",
    ]
    parameters = given(job)
    assert parameters["weights"] == "gs://bucket/weights"
    assert (parameters["serving"], parameters["builder"], parameters["traffic"]) == (
        "endpoint",
        "cloud",
        20,
    )
    spec = json_format.MessageToDict(v1.PipelineJob.pb(job))["pipelineSpec"]
    images = {each["container"]["image"] for each in spec["deploymentSpec"]["executors"].values()}
    assert images == {IMAGE.split()[1]}
    # Weights of one's own may change where they lie: taking them is no step to be cached.
    assert not spec["root"]["dag"]["tasks"]["train"].get("cachingOptions", {}).get("enableCache")


def test_what_its_steps_make_goes_into_a_bucket_of_the_project(pipeline: Run, empty: Stage) -> None:
    assert pipeline(f"submit {IMAGE}").code == 0
    (job,) = jobs(empty)
    assert job.runtime_config.gcs_output_directory == f"gs://{PROJECT}-pipeline/digits"
    with artifacts.client(empty.world.rules) as client:
        assert client.lookup_bucket(f"{PROJECT}-pipeline") is not None


@pytest.mark.parametrize("option", ["--weights build/model", "--data /pictures", "--serving a.mar"])
def test_what_lies_on_this_machine_is_refused(pipeline: Run, empty: Stage, option: str) -> None:
    ran = pipeline(f"submit {IMAGE} {option}")
    assert ran.code == 1
    assert f"{option}: no step at Google sees this machine" in ran.err
    assert not jobs(empty)


def test_pictures_in_a_bucket_are_read_where_vertex_mounts_it(pipeline: Run, empty: Stage) -> None:
    assert pipeline(f"submit {IMAGE} --data gs://bucket/pictures").code == 0
    (job,) = jobs(empty)
    assert given(job)["data"] == "/gcs/bucket/pictures"


def test_a_bucket_of_that_name_in_anothers_project_is_not_written_to(
    pipeline: Run, empty: Stage, monkeypatch: pytest.MonkeyPatch
) -> None:
    # The emulator knows no projects: nothing is listed of what another's list would not show either.
    assert pipeline(f"submit {IMAGE}").code == 0
    empty.world.pipelines.clear()
    monkeypatch.setattr(storage.Client, "list_buckets", lambda *_, **__: [])
    ran = pipeline(f"submit {IMAGE}")
    assert ran.code == 1
    assert f"gs://{PROJECT}-pipeline is another project's" in ran.err
    assert not jobs(empty)


def test_a_job_that_fails_is_told_with_its_step_and_reason(pipeline: Run, empty: Stage) -> None:
    empty.fault("failing", "RunPipelineJob", "FAILED_PRECONDITION the candidate is worse")
    ran = pipeline(f"submit {IMAGE} --wait")
    assert ran.code == 1
    assert "failed     train" in ran.out
    assert "the pipeline ended as failed: the candidate is worse" in ran.err


def test_a_role_that_is_missing_is_told_with_the_line_that_adds_it(
    pipeline: Run, empty: Stage
) -> None:
    empty.fault("denied", "CreatePipelineJob", "aiplatform.pipelineJobs.create")
    ran = pipeline(f"submit {IMAGE}")
    assert ran.code == 1
    assert "aiplatform.pipelineJobs.create" in ran.err
    assert "--role=roles/aiplatform.user" in ran.err
    assert not jobs(empty)


def test_it_is_scheduled_listed_and_ended(pipeline: Run, empty: Stage) -> None:
    ran = pipeline(
        f'submit {IMAGE} --cron "TZ=Europe/Berlin 0 3 * * 1" --run-as me@p.iam.gserviceaccount.com'
    )
    assert ran.code == 0, ran.err
    (schedule,) = empty.world.schedules.values()
    assert schedule.cron == "TZ=Europe/Berlin 0 3 * * 1"
    assert schedule.max_concurrent_run_count == 1
    assert schedule.create_pipeline_job_request.pipeline_job.service_account.startswith("me@")
    assert not jobs(empty)
    assert "active  TZ=Europe/Berlin 0 3 * * 1" in pipeline("schedules").out
    assert f"ended: {schedule.name}" in pipeline("unschedule").out
    assert "nothing of digits runs by the clock" in pipeline("schedules").out


@pytest.mark.parametrize(
    ("spoil", "said"),
    [
        (
            lambda body: body["runtimeConfig"]["parameterValues"].update(colour="red"),
            "colour is no input",
        ),
        (
            lambda body: body["runtimeConfig"]["parameterValues"].update(epochs="five"),
            "epochs is 'five'",
        ),
        (lambda body: body["pipelineSpec"].pop("components"), "is of no component"),
        (
            lambda body: body["runtimeConfig"].update(gcsOutputDirectory="/tmp/x"),
            "not a Cloud Storage URI",
        ),
        (
            lambda body: body["runtimeConfig"].update(gcsOutputDirectory="gs://none/x"),
            "none does not exist",
        ),
        (
            lambda body: body["runtimeConfig"].pop("gcsOutputDirectory"),
            "is not a Cloud Storage URI",
        ),
        (lambda body: body.update(serviceAcount="me"), 'Unknown name "serviceAcount"'),
    ],
)
def test_a_job_that_is_none_is_refused(
    empty: Stage, spoil: Callable[[Any], None], said: str
) -> None:
    with artifacts.client(empty.world.rules) as client:
        if client.lookup_bucket("there") is None:
            client.create_bucket("there")
    spec = yaml.safe_load((ROOT / "pipeline/pipeline.yaml").read_text())
    config = {"gcsOutputDirectory": "gs://there/x", "parameterValues": {"epochs": 2}}
    where = f"{empty.url}/v1/projects/p/locations/us-central1/pipelineJobs?pipelineJobId=job"
    body: dict[str, Any] = {"displayName": "d", "pipelineSpec": spec, "runtimeConfig": config}
    good = json.loads(json.dumps(body))
    spoil(body)
    refused = requests.post(where, json=body, timeout=30)
    assert refused.status_code in (400, 404), refused.text
    assert said in refused.json()["error"]["message"]
    assert requests.post(where, json=good, timeout=30).status_code == 200


def test_the_second_version_is_a_canary_and_is_promoted(deploy: Run, empty: Stage) -> None:  # noqa: F811
    """As steps of the pipeline do it, on an image that is there in a second."""
    where = {"project": PROJECT, "region": "us-central1"}
    for version in ("1", "2"):
        assert deploy(f"upload --image {TINY}:{version}").code == 0
        step(empty, "canary", version, where)
        if version == "2":
            assert traffic(empty) == {"1": 80, "2": 20}
        step(empty, "promote", version, where)
        assert traffic(empty)[version] == 100


def step(stage: Stage, name: str, version: str, where: dict[str, str]) -> None:
    """Run a step in a process of its own, as kfp does."""
    more = ", traffic=20, limits={}" if name == "canary" else ""
    code = f"from pipeline import steps; steps.{name}({version!r}, where={where!r}{more})"
    env = {
        **stage.environment(PROJECT),
        "PROGRAMS": sys.executable,
        "DEPLOY_IMAGE": f"{TINY}:{version}",
    }
    done = subprocess.run(
        [sys.executable, "-c", code],
        cwd=ROOT,
        env={**os.environ, **env},
        capture_output=True,
        text=True,
        timeout=120,
        check=False,
    )
    assert done.returncode == 0, done.stdout + done.stderr


def look(stage: Stage, what: str) -> Done:
    words = [what, "--project", PROJECT, "--region", "us-central1"]
    done = subprocess.run(
        [sys.executable, "-m", "pipeline.look", *words],
        cwd=ROOT,
        env={**os.environ, **stage.environment(PROJECT)},
        capture_output=True,
        text=True,
        timeout=120,
        check=False,
    )
    return Done(done.returncode, done.stdout, done.stderr)


def test_only_an_image_that_cloud_build_put_to_the_contract_goes_on(empty: Stage) -> None:
    name = f"projects/{number(PROJECT)}/locations/us-central1/builds/b"
    build = Build(name=name, id="b", status="SUCCESS", substitutions={"_TAG": fingerprint(ROOT)})
    build.steps = [BuildStep(id="tests", name="n", status="FAILURE")]
    empty.world.builds[name] = build
    refused = look(empty, "tested")
    assert refused.code == 1
    assert "put it to the contract" in refused.err
    build.steps[0].status = Build.Status.SUCCESS
    kept = look(empty, "tested")
    assert kept.code == 0, kept.err
    assert "in step tests of build b" in kept.out


def test_an_image_of_the_steps_that_is_there_is_not_built_again(
    pipeline: Run, empty: Stage, tmp_path: Path
) -> None:
    tag = f"src-{sources.fingerprint(ROOT, IN_THE_IMAGE)}"
    image = f"{empty.registry}/{PROJECT}/models/digits-pipeline"
    (tmp_path / "Dockerfile").write_text("FROM scratch\nCOPY Dockerfile /\n")
    docker("build", "--quiet", "--tag", f"{image}:{tag}", str(tmp_path))
    pushed = docker("push", f"{image}:{tag}", timeout_s=180)
    docker("image", "rm", f"{image}:{tag}")
    ran = pipeline("submit")
    assert ran.code == 0, ran.err
    (job,) = jobs(empty)
    spec = json_format.MessageToDict(v1.PipelineJob.pb(job))["pipelineSpec"]
    digest = re.search(r"sha256:[0-9a-f]{64}", pushed)
    assert digest is not None
    images = {each["container"]["image"] for each in spec["deploymentSpec"]["executors"].values()}
    assert images == {f"{image}@{digest[0]}"}
    assert not empty.world.builds


def test_cloud_builds_own_loader_takes_the_build_of_the_steps_image() -> None:
    file = ROOT / "pipeline/cloudbuild.yaml"
    done = loaded(str(file))
    assert done.returncode == 0, done.stderr
    content = yaml.safe_load(file.read_text())
    content["substitutions"] |= {"_IMAGE": "host/p/r/n", "_TAG": "t"}
    assert list(problems(content)) == []
