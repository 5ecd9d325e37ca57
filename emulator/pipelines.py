"""Pipeline jobs and their schedules: held to Google's types, and to what the pipeline itself declares.

No step is run, and no clock: a job goes through its states and its tasks through theirs.
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
from emulator.jobs import Jobs, stop_if
from emulator.resources import Kind
from emulator.state import State, canonical_name, now

Task = v1.PipelineTaskDetail.State
IDENTITY = re.compile("[a-z][-a-z0-9]{0,127}")
CRON = re.compile(
    r"((CRON_)?TZ=[A-Za-z_]+(/[A-Za-z_+\-0-9]+)* )?[\d*/,\-A-Za-z]+( [\d*/,\-A-Za-z]+){4}"
)
KINDS = {"NUMBER_INTEGER": float, "NUMBER_DOUBLE": float, "STRING": str, "BOOLEAN": bool}
TASK_S = 0.05


def create(state: State, request: v1.CreatePipelineJobRequest) -> v1.PipelineJob:
    """Begin a job; raise Refused where it is not one."""
    job = v1.PipelineJob(request.pipeline_job)
    _check(state, job)
    identity = request.pipeline_job_id or f"job-{state.next_id()}"
    if not IDENTITY.fullmatch(identity):
        raise invalid_argument(f"pipeline_job_id: {identity} does not match {IDENTITY.pattern}")
    job.name = f"{canonical_name(request.parent)}/pipelineJobs/{identity}"
    if job.name in state.pipeline_jobs:
        raise ApiError("ALREADY_EXISTS", f"The PipelineJob {job.name} already exists.")
    return JOBS.begin(state, job, lambda cancelled: _run(state, job, cancelled))


def create_schedule(state: State, request: v1.CreateScheduleRequest) -> v1.Schedule:
    """Keep a schedule; raise Refused where its clock or its job is none."""
    schedule = v1.Schedule(request.schedule)
    if not CRON.fullmatch(schedule.cron):
        raise invalid_argument(f"Invalid cron schedule: {schedule.cron!r}")
    if "create_pipeline_job_request" not in schedule:
        raise unimplemented("the rehearsal schedules pipeline jobs alone")
    _check(state, schedule.create_pipeline_job_request.pipeline_job)
    schedule.name = f"{canonical_name(request.parent)}/schedules/{state.next_id()}"
    schedule.state, schedule.create_time = v1.Schedule.State.ACTIVE, now()
    state.schedules[schedule.name] = schedule
    return v1.Schedule(schedule)


def _check(state: State, job: v1.PipelineJob) -> None:
    """Raise Refused where a pipeline names what it does not have, or is given what it does not take."""
    spec = MessageToDict(v1.PipelineJob.pb(job))["pipelineSpec"]
    if not spec.get("pipelineInfo", {}).get("name") or "root" not in spec:
        raise invalid_argument("pipeline_spec: pipelineInfo.name and root are required.")
    components = spec.get("components", {})
    executors = spec.get("deploymentSpec", {}).get("executors", {})
    for name, task in _tasks(spec).items():
        component = components.get(task["componentRef"]["name"])
        if component is None:
            raise invalid_argument(f"pipeline_spec: task {name} is of no component.")
        executor = executors.get(component.get("executorLabel"), {})
        if not executor.get("container", {}).get("image"):
            raise invalid_argument(f"pipeline_spec: task {name} has no container image.")
        if strangers := set(task.get("dependentTasks", ())) - set(_tasks(spec)):
            raise invalid_argument(f"pipeline_spec: task {name} waits for {strangers}.")
    declared = spec["root"].get("inputDefinitions", {}).get("parameters", {})
    _check_parameters(declared, job.runtime_config)
    bucket, _ = artifacts.split_uri(job.runtime_config.gcs_output_directory)
    with artifacts.storage_client(state.config) as storage:
        if storage.lookup_bucket(bucket) is None:
            raise failed_precondition(f"The bucket {bucket} does not exist.")


def _check_parameters(declared: dict[str, Any], config: v1.PipelineJob.RuntimeConfig) -> None:
    given = MessageToDict(v1.PipelineJob.RuntimeConfig.pb(config)).get("parameterValues", {})
    for name, value in given.items():
        if name not in declared:
            raise invalid_argument(f"runtime_config: {name} is no input of the pipeline.")
        wanted = KINDS.get(declared[name]["parameterType"])
        if wanted and (
            not isinstance(value, wanted) or isinstance(value, bool) != (wanted is bool)
        ):
            kind = declared[name]["parameterType"]
            raise invalid_argument(f"runtime_config: {name} is {value!r}, not a {kind}.")
    for name, definition in declared.items():
        if (
            name not in given
            and "defaultValue" not in definition
            and not definition.get("isOptional")
        ):
            raise invalid_argument(f"runtime_config: the input {name} is not given.")


def _tasks(spec: dict[str, Any]) -> dict[str, Any]:
    return dict(spec["root"].get("dag", {}).get("tasks", {}))


def _in_order(spec: dict[str, Any]) -> list[str]:
    """Return the tasks, each after those that it waits for; raise Refused for a circle."""
    tasks = _tasks(spec)
    before = {name: task.get("dependentTasks", ()) for name, task in tasks.items()}
    try:
        return list(graphlib.TopologicalSorter(before).static_order())
    except graphlib.CycleError as error:
        raise invalid_argument(f"pipeline_spec: {error.args[1]} wait for each other.") from None


def _run(state: State, job: v1.PipelineJob, cancelled: threading.Event) -> None:
    """Let a job's tasks go by; a fault of the method RunPipelineJob lets the first of them fail."""
    fault = state.faults.take("RunPipelineJob", "failing")
    for name in _in_order(MessageToDict(v1.PipelineJob.pb(job))["pipelineSpec"]):
        stop_if(cancelled)
        number = int(state.next_id())
        job.job_detail.task_details.append({"task_name": name, "task_id": number})
        task = job.job_detail.task_details[-1]
        task.state = Task.RUNNING
        time.sleep(TASK_S)
        task.state = Task.FAILED if fault else Task.SUCCEEDED
        if fault:
            raise to_error(fault, job.name)


JOBS = Jobs(
    "PipelineJob", lambda state: state.pipeline_jobs, v1.ListPipelineJobsResponse, v1.PipelineState
)
SCHEDULES = Kind("Schedule", lambda state: state.schedules, v1.ListSchedulesResponse)
METHODS = {
    "CreatePipelineJob": create,
    "CreateSchedule": create_schedule,
    **JOBS.methods(),
    **SCHEDULES.methods(),
}
