"""Vertex AI Pipelines: jobs and schedules, validated against Google's types and the pipeline's own declarations.

No step is run and no schedule is triggered: a job and its tasks only pass through their states.
"""

import graphlib
import re
import threading
import time
from typing import Any

from google.cloud import aiplatform_v1 as v1
from google.protobuf.json_format import MessageToDict

from emulator import artifacts
from emulator.errors import ApiError, failed_precondition, invalid_argument, unimplemented
from emulator.faults import to_error
from emulator.jobs import JobType, raise_if_cancelled
from emulator.resources import Method, ResourceType
from emulator.state import State, canonical_name, now

Task = v1.PipelineTaskDetail.State
JOB_ID = re.compile("[a-z][-a-z0-9]{0,127}")
CRON = re.compile(
    r"((CRON_)?TZ=[A-Za-z_]+(/[A-Za-z_+\-0-9]+)* )?[\d*/,\-A-Za-z]+( [\d*/,\-A-Za-z]+){4}"
)
PARAMETER_TYPES = {"NUMBER_INTEGER": float, "NUMBER_DOUBLE": float, "STRING": str, "BOOLEAN": bool}
TASK_S = 0.05
"""Duration of a task."""


def create(state: State, request: v1.CreatePipelineJobRequest) -> v1.PipelineJob:
    """Start a job; raise ApiError if it is invalid."""
    job = v1.PipelineJob(request.pipeline_job)
    _check(state, job)
    job_id = request.pipeline_job_id or f"job-{state.next_id()}"
    if not JOB_ID.fullmatch(job_id):
        raise invalid_argument(f"pipeline_job_id: {job_id} does not match {JOB_ID.pattern}")
    job.name = f"{canonical_name(request.parent)}/pipelineJobs/{job_id}"
    if job.name in state.pipeline_jobs:
        raise ApiError("ALREADY_EXISTS", f"The PipelineJob {job.name} already exists.")
    return JOBS.start(state, job, lambda cancelled: _run(state, job, cancelled))


def create_schedule(state: State, request: v1.CreateScheduleRequest) -> v1.Schedule:
    """Create a schedule; raise ApiError if its cron expression or its job is invalid."""
    schedule = v1.Schedule(request.schedule)
    if not CRON.fullmatch(schedule.cron):
        raise invalid_argument(f"Invalid cron schedule: {schedule.cron!r}")
    if "create_pipeline_job_request" not in schedule:
        raise unimplemented("the emulator supports schedules of pipeline jobs only")
    _check(state, schedule.create_pipeline_job_request.pipeline_job)
    schedule.name = f"{canonical_name(request.parent)}/schedules/{state.next_id()}"
    schedule.state, schedule.create_time = v1.Schedule.State.ACTIVE, now()
    state.schedules[schedule.name] = schedule
    return v1.Schedule(schedule)


def _check(state: State, job: v1.PipelineJob) -> None:
    """Raise ApiError if a job's spec has dangling references, or its parameters or bucket are wrong."""
    spec = MessageToDict(v1.PipelineJob.pb(job))["pipelineSpec"]
    if not spec.get("pipelineInfo", {}).get("name") or "root" not in spec:
        raise invalid_argument("pipeline_spec: pipelineInfo.name and root are required.")
    components = spec.get("components", {})
    executors = spec.get("deploymentSpec", {}).get("executors", {})
    for name, task in _tasks(spec).items():
        component = components.get(task["componentRef"]["name"])
        if component is None:
            raise invalid_argument(f"pipeline_spec: the component of task {name} does not exist.")
        executor = executors.get(component.get("executorLabel"), {})
        if not executor.get("container", {}).get("image"):
            raise invalid_argument(f"pipeline_spec: task {name} has no container image.")
        if unknown := set(task.get("dependentTasks", ())) - set(_tasks(spec)):
            raise invalid_argument(
                f"pipeline_spec: task {name} depends on unknown tasks: {unknown}."
            )
    declared = spec["root"].get("inputDefinitions", {}).get("parameters", {})
    _check_parameters(declared, job.runtime_config)
    bucket, _ = artifacts.split_uri(job.runtime_config.gcs_output_directory)
    with artifacts.storage_client(state.config) as storage:
        if storage.lookup_bucket(bucket) is None:
            raise failed_precondition(f"The bucket {bucket} does not exist.")


def _check_parameters(declared: dict[str, Any], config: v1.PipelineJob.RuntimeConfig) -> None:
    values = MessageToDict(v1.PipelineJob.RuntimeConfig.pb(config)).get("parameterValues", {})
    for name, value in values.items():
        if name not in declared:
            raise invalid_argument(f"runtime_config: {name} is not an input of the pipeline.")
        type_name = declared[name]["parameterType"]
        expected = PARAMETER_TYPES.get(type_name)
        if expected and (
            not isinstance(value, expected) or isinstance(value, bool) != (expected is bool)
        ):
            raise invalid_argument(f"runtime_config: {name} is {value!r}, not a {type_name}.")
    for name, definition in declared.items():
        optional = "defaultValue" in definition or definition.get("isOptional")
        if name not in values and not optional:
            raise invalid_argument(f"runtime_config: the input {name} is missing.")


def _tasks(spec: dict[str, Any]) -> dict[str, Any]:
    return dict(spec["root"].get("dag", {}).get("tasks", {}))


def _sort_tasks(spec: dict[str, Any]) -> list[str]:
    """Return the tasks, each after those that it depends on; raise ApiError for a cycle."""
    dependencies = {name: task.get("dependentTasks", ()) for name, task in _tasks(spec).items()}
    try:
        return list(graphlib.TopologicalSorter(dependencies).static_order())
    except graphlib.CycleError as error:
        raise invalid_argument(f"pipeline_spec: {error.args[1]} depend on each other.") from None


def _run(state: State, job: v1.PipelineJob, cancelled: threading.Event) -> None:
    """Set the states of a job's tasks in turn. A fault of the method RunPipelineJob fails the first task."""
    fault = state.faults.take("RunPipelineJob", "failing")
    for name in _sort_tasks(MessageToDict(v1.PipelineJob.pb(job))["pipelineSpec"]):
        raise_if_cancelled(cancelled)
        job.job_detail.task_details.append({"task_name": name, "task_id": int(state.next_id())})
        task = job.job_detail.task_details[-1]
        task.state = Task.RUNNING
        time.sleep(TASK_S)
        task.state = Task.FAILED if fault else Task.SUCCEEDED
        if fault:
            raise to_error(fault, job.name)


JOBS = JobType(
    "PipelineJob", lambda state: state.pipeline_jobs, v1.ListPipelineJobsResponse, v1.PipelineState
)
SCHEDULES = ResourceType("Schedule", lambda state: state.schedules, v1.ListSchedulesResponse)
METHODS: dict[str, Method] = {
    "CreatePipelineJob": create,
    "CreateSchedule": create_schedule,
    **JOBS.methods(),
    **SCHEDULES.methods(),
}
