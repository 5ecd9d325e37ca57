"""Tests that teardown ends everything of a name: jobs, schedules, the function, and what an interruption has left."""

import itertools
import threading
import time
from collections.abc import Callable
from types import SimpleNamespace

import pytest
from google.cloud import aiplatform_v1 as v1
from google.cloud import functions_v2 as gf

from deploy.cli import interrupt
from deploy.gcp import client
from emulator import batch, pipelines
from emulator.jobs import raise_if_cancelled
from emulator.stack import Stack
from emulator.state import project_number
from tests.cloud.conftest import PROJECT, REGION, Run, count_containers

pytestmark = pytest.mark.full
LOCATION = f"projects/{project_number(PROJECT)}/locations/{REGION}"


def run_until_cancelled(cancelled: threading.Event) -> None:
    cancelled.wait(60)
    time.sleep(0.5)
    raise_if_cancelled(cancelled)


@pytest.fixture
def jobs(stack: Stack) -> Callable[[str], list[v1.PipelineJob | v1.BatchPredictionJob]]:
    """Return a function that starts a pipeline job and a batch prediction job of a name, and makes a schedule."""

    def start(name: str) -> list[v1.PipelineJob | v1.BatchPredictionJob]:
        state = stack.state
        pipeline = v1.PipelineJob(name=f"{LOCATION}/pipelineJobs/of-{name}", display_name=name)
        batch_job = v1.BatchPredictionJob(
            name=f"{LOCATION}/batchPredictionJobs/{len(state.batch_jobs)}",
            model=f"{LOCATION}/models/{name}@1",
            dedicated_resources={
                "machine_spec": {"machine_type": "n1-standard-2"},
                "starting_replica_count": 3,
            },
        )
        pipelines.JOBS.start(state, pipeline, run_until_cancelled)
        batch.JOBS.start(state, batch_job, run_until_cancelled)
        schedule = f"{LOCATION}/schedules/of-{name}"
        state.schedules[schedule] = v1.Schedule(name=schedule, display_name=name)
        function = f"{LOCATION}/functions/{name}"
        state.functions[function] = gf.Function(name=function)
        return [pipeline, batch_job]

    return start


def test_teardown_ends_the_jobs_the_schedules_and_the_function_of_the_name_only(
    deploy: Run, stack: Stack, jobs: Callable[[str], list[v1.PipelineJob]]
) -> None:
    own, other = jobs("toy"), jobs("other")
    shown = deploy("status").out
    for line in (
        "pipeline job of-toy: running, new",
        "batch prediction job 0: running, new, 3 x n1-standard-2",
        "schedule of-toy: starts pipeline jobs",
        "function toy: deployed",
        "cost: about $0.33 an hour",
    ):
        assert line in shown
    assert "of-other" not in shown
    dry = deploy("teardown --dry-run").out
    for rpc in (
        "JobService.CancelBatchPredictionJob",
        "PipelineService.CancelPipelineJob",
        "ScheduleService.DeleteSchedule",
        "FunctionService.DeleteFunction",
    ):
        assert f"would call {rpc}" in dry
    done = deploy("teardown --yes")
    assert done.code == 0, done.err
    assert "the pipeline job of-toy has ended: cancelled" in done.out
    assert "nothing of toy is left" in done.out
    assert [job.state.name.rpartition("_")[2] for job in own] == ["CANCELLED", "CANCELLED"]
    assert [job.state.name.rpartition("_")[2] for job in other] == ["RUNNING", "RUNNING"]
    assert list(stack.state.schedules) == [f"{LOCATION}/schedules/of-other"]
    assert list(stack.state.functions) == [f"{LOCATION}/functions/other"]


def test_teardown_fails_and_lists_a_job_that_google_does_not_end_in_time(
    deploy: Run,
    stack: Stack,
    jobs: Callable[[str], list[v1.PipelineJob]],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    jobs("toy")
    stack.inject_fault(
        "refused", "CancelBatchPredictionJob", "FAILED_PRECONDITION not now", times=9
    )
    clock = SimpleNamespace(monotonic=itertools.count(0, 600).__next__, sleep=time.sleep)
    monkeypatch.setattr(client, "time", clock)
    failed = deploy("teardown --yes")
    assert failed.code == 1
    assert (
        "the batch prediction job 0 was cancelled, but has not ended after 60 minutes" in failed.out
    )
    expected = (
        "not everything is deleted in cloud-tests, us-central1: the batch prediction job 0, running"
    )
    assert expected in failed.err
    assert not stack.state.schedules


def test_interruption_at_the_question_of_teardown_changes_nothing_and_says_so(
    deploy: Run, stack: Stack, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert deploy("deploy").code == 0
    monkeypatch.setattr("builtins.input", interrupt)
    stopped = deploy("teardown")
    assert stopped.code == 130
    assert "interrupted. Nothing was begun and nothing was deleted." in stopped.out
    assert count_containers(stack) == 1


def test_what_the_caller_may_not_list_is_named_by_teardown(deploy: Run, stack: Stack) -> None:
    assert deploy("deploy").code == 0
    stack.inject_fault("denied", "ListBuilds", "cloudbuild.builds.list", times=9)
    stack.inject_fault("disabled", "GetFunction", "cloudfunctions.googleapis.com", times=9)
    done = deploy("teardown --yes")
    assert done.code == 0, done.err
    assert "builds are not checked: permission denied" in done.out
    assert "functions are not checked" not in done.out
    assert "nothing of toy is left of what could be checked" in done.out


def test_place_that_fails_does_not_keep_the_others_and_is_remembered(
    deploy: Run, stack: Stack
) -> None:
    for region in ("us-east1", "europe-west4"):
        assert deploy(f"deploy --region {region}").code == 0
    stack.inject_fault("refused", "DeleteModel", "FAILED_PRECONDITION not now", times=1)
    failed = deploy("teardown --yes")
    assert failed.code == 1
    assert "cloud-tests, europe-west4: request rejected while deleting the model" in failed.out
    assert "cloud-tests, us-east1: nothing of toy is left" in failed.out
    assert "not now" in failed.err
    assert count_containers(stack) == 0
    again = deploy("teardown --yes --keep-images")
    assert "cloud-tests, europe-west4: nothing of toy is left" in again.out
    assert "europe-west4: nothing of toy to delete" in deploy("teardown --region us-east1").out
