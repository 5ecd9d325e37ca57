"""Pipeline jobs and their schedules: held to Google's types, and to what the pipeline itself declares.

No step is run, and no clock: a job goes through its states and its tasks through theirs.
"""

import re
import threading
import time
from typing import Any

from google.cloud import aiplatform_v1 as v1
from google.longrunning import operations_pb2
from google.protobuf.empty_pb2 import Empty
from google.protobuf.json_format import MessageToDict
from google.rpc import status_pb2

from rehearsal import artifacts, operations
from rehearsal.errors import Refused, not_found
from rehearsal.faults import refusal
from rehearsal.world import World, canonical, now, page

State, Task = v1.PipelineState, v1.PipelineTaskDetail.State
OVER = (State.PIPELINE_STATE_SUCCEEDED, State.PIPELINE_STATE_FAILED, State.PIPELINE_STATE_CANCELLED)
IDENTITY = re.compile("[a-z][-a-z0-9]{0,127}")
CRON = re.compile(
    r"((CRON_)?TZ=[A-Za-z_]+(/[A-Za-z_+\-0-9]+)* )?[\d*/,\-A-Za-z]+( [\d*/,\-A-Za-z]+){4}"
)
KINDS = {"NUMBER_INTEGER": float, "NUMBER_DOUBLE": float, "STRING": str, "BOOLEAN": bool}
TASK_S = 0.05
_cancelled: dict[str, threading.Event] = {}


def create(world: World, request: v1.CreatePipelineJobRequest) -> v1.PipelineJob:
    """Begin a job; raise Refused where it is not one."""
    job = v1.PipelineJob(request.pipeline_job)
    _check(world, job)
    identity = request.pipeline_job_id or f"job-{world.serial()}"
    if not IDENTITY.fullmatch(identity):
        raise Refused(
            "INVALID_ARGUMENT", f"pipeline_job_id: {identity} does not match {IDENTITY.pattern}"
        )
    job.name = f"{canonical(request.parent)}/pipelineJobs/{identity}"
    if job.name in world.pipelines:
        raise Refused("ALREADY_EXISTS", f"The PipelineJob {job.name} already exists.")
    job.state, job.create_time = State.PIPELINE_STATE_PENDING, now()
    world.pipelines[job.name] = job
    _cancelled[job.name] = threading.Event()
    operations.start(world, job.name, v1.DeleteOperationMetadata(), "", lambda _: _run(world, job))
    return v1.PipelineJob(job)


def get(world: World, request: v1.GetPipelineJobRequest) -> v1.PipelineJob:
    """Return a job."""
    job = world.pipelines.get(canonical(request.name))
    if job is None:
        raise not_found("PipelineJob", request.name)
    return job


def list_(world: World, request: v1.ListPipelineJobsRequest) -> v1.ListPipelineJobsResponse:
    """Return a location's jobs."""
    found, token = page(_under(world.pipelines, request.parent), request)
    return v1.ListPipelineJobsResponse(pipeline_jobs=found, next_page_token=token)


def cancel(world: World, request: v1.CancelPipelineJobRequest) -> Empty:
    """Ask a job to end."""
    _cancelled[get(world, v1.GetPipelineJobRequest(name=request.name)).name].set()
    return Empty()


def delete(world: World, request: v1.DeletePipelineJobRequest) -> operations_pb2.Operation:
    """Delete a job that is over."""
    job = get(world, v1.GetPipelineJobRequest(name=request.name))
    if job.state not in OVER:
        raise Refused("FAILED_PRECONDITION", f"{job.name} is not over: cancel it first.")
    world.pipelines.pop(job.name)
    return _deleted(world, job.name, "DeletePipelineJob")


def create_schedule(world: World, request: v1.CreateScheduleRequest) -> v1.Schedule:
    """Keep a schedule; raise Refused where its clock or its job is none."""
    schedule = v1.Schedule(request.schedule)
    if not CRON.fullmatch(schedule.cron):
        raise Refused("INVALID_ARGUMENT", f"Invalid cron schedule: {schedule.cron!r}")
    if "create_pipeline_job_request" not in schedule:
        raise Refused("UNIMPLEMENTED", "the rehearsal schedules pipeline jobs alone")
    _check(world, schedule.create_pipeline_job_request.pipeline_job)
    schedule.name = f"{canonical(request.parent)}/schedules/{world.serial()}"
    schedule.state, schedule.create_time = v1.Schedule.State.ACTIVE, now()
    world.schedules[schedule.name] = schedule
    return v1.Schedule(schedule)


def get_schedule(world: World, request: v1.GetScheduleRequest) -> v1.Schedule:
    """Return a schedule."""
    schedule = world.schedules.get(canonical(request.name))
    if schedule is None:
        raise not_found("Schedule", request.name)
    return schedule


def list_schedules(world: World, request: v1.ListSchedulesRequest) -> v1.ListSchedulesResponse:
    """Return a location's schedules."""
    found, token = page(_under(world.schedules, request.parent), request)
    return v1.ListSchedulesResponse(schedules=found, next_page_token=token)


def delete_schedule(world: World, request: v1.DeleteScheduleRequest) -> operations_pb2.Operation:
    """Delete a schedule."""
    name = get_schedule(world, v1.GetScheduleRequest(name=request.name)).name
    world.schedules.pop(name)
    return _deleted(world, name, "DeleteSchedule")


def _under(kept: dict[str, Any], parent: str) -> list[Any]:
    return [each for name, each in kept.items() if name.startswith(f"{canonical(parent)}/")]


def _deleted(world: World, name: str, rpc: str) -> operations_pb2.Operation:
    metadata = v1.DeleteOperationMetadata()
    return operations.start(world, name, metadata, rpc, lambda _: Empty())


def _check(world: World, job: v1.PipelineJob) -> None:
    """Raise Refused where a pipeline names what it does not have, or is given what it does not take."""
    spec = MessageToDict(v1.PipelineJob.pb(job))["pipelineSpec"]
    if not spec.get("pipelineInfo", {}).get("name") or "root" not in spec:
        raise Refused("INVALID_ARGUMENT", "pipeline_spec: pipelineInfo.name and root are required.")
    components = spec.get("components", {})
    executors = spec.get("deploymentSpec", {}).get("executors", {})
    for name, task in _tasks(spec).items():
        component = components.get(task["componentRef"]["name"])
        if component is None:
            raise Refused("INVALID_ARGUMENT", f"pipeline_spec: task {name} is of no component.")
        executor = executors.get(component.get("executorLabel"), {})
        if not executor.get("container", {}).get("image"):
            raise Refused("INVALID_ARGUMENT", f"pipeline_spec: task {name} has no container image.")
        if strangers := set(task.get("dependentTasks", ())) - set(_tasks(spec)):
            raise Refused("INVALID_ARGUMENT", f"pipeline_spec: task {name} waits for {strangers}.")
    declared = spec["root"].get("inputDefinitions", {}).get("parameters", {})
    _check_parameters(declared, job.runtime_config)
    bucket, _ = artifacts.split(job.runtime_config.gcs_output_directory)
    with artifacts.client(world.rules) as storage:
        if storage.lookup_bucket(bucket) is None:
            raise Refused("FAILED_PRECONDITION", f"The bucket {bucket} does not exist.")


def _check_parameters(declared: dict[str, Any], config: v1.PipelineJob.RuntimeConfig) -> None:
    given = MessageToDict(v1.PipelineJob.RuntimeConfig.pb(config)).get("parameterValues", {})
    for name, value in given.items():
        if name not in declared:
            raise Refused(
                "INVALID_ARGUMENT", f"runtime_config: {name} is no input of the pipeline."
            )
        wanted = KINDS.get(declared[name]["parameterType"])
        if wanted and (
            not isinstance(value, wanted) or isinstance(value, bool) != (wanted is bool)
        ):
            kind = declared[name]["parameterType"]
            raise Refused("INVALID_ARGUMENT", f"runtime_config: {name} is {value!r}, not a {kind}.")
    for name, definition in declared.items():
        if (
            name not in given
            and "defaultValue" not in definition
            and not definition.get("isOptional")
        ):
            raise Refused("INVALID_ARGUMENT", f"runtime_config: the input {name} is not given.")


def _tasks(spec: dict[str, Any]) -> dict[str, Any]:
    return dict(spec["root"].get("dag", {}).get("tasks", {}))


def _in_order(spec: dict[str, Any]) -> list[str]:
    """Return the tasks, each after those that it waits for; raise Refused for a circle."""
    left, ordered = _tasks(spec), list[str]()
    while left:
        free = [
            name
            for name, task in left.items()
            if set(task.get("dependentTasks", ())) <= set(ordered)
        ]
        if not free:
            raise Refused("INVALID_ARGUMENT", f"pipeline_spec: {sorted(left)} wait for each other.")
        ordered += free
        for name in free:
            del left[name]
    return ordered


def _run(world: World, job: v1.PipelineJob) -> Empty:
    """Let a job's tasks go by; a fault of the method RunPipelineJob lets the first of them fail."""
    fault = world.faults.strikes("RunPipelineJob", "failing")
    job.state, job.start_time = State.PIPELINE_STATE_RUNNING, now()
    try:
        for name in _in_order(MessageToDict(v1.PipelineJob.pb(job))["pipelineSpec"]):
            _stop_if_cancelled(job)
            task = v1.PipelineTaskDetail(
                task_name=name, task_id=int(world.serial()), state=Task.RUNNING
            )
            job.job_detail.task_details.append(task)
            time.sleep(TASK_S)
            job.job_detail.task_details[-1].state = Task.FAILED if fault else Task.SUCCEEDED
            if fault:
                raise refusal(fault, job.name)
        job.state = State.PIPELINE_STATE_SUCCEEDED
    except Refused as error:
        job.error = status_pb2.Status(code=error.code, message=error.message)
        cancelled = error.status == "CANCELLED"
        job.state = State.PIPELINE_STATE_CANCELLED if cancelled else State.PIPELINE_STATE_FAILED
    finally:
        job.end_time = now()
        if job.state not in OVER:
            job.state = State.PIPELINE_STATE_FAILED
    return Empty()


def _stop_if_cancelled(job: v1.PipelineJob) -> None:
    if _cancelled[job.name].is_set():
        raise Refused("CANCELLED", "The pipeline job was cancelled.")


METHODS = {
    "CreatePipelineJob": create,
    "GetPipelineJob": get,
    "ListPipelineJobs": list_,
    "CancelPipelineJob": cancel,
    "DeletePipelineJob": delete,
    "CreateSchedule": create_schedule,
    "GetSchedule": get_schedule,
    "ListSchedules": list_schedules,
    "DeleteSchedule": delete_schedule,
}
