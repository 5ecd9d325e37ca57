"""Cloud Functions of the second generation: the source that gcloud uploads, run by functions-framework.

Each runs on this machine's own Python, whose packages must be those that its requirements name.
"""

import importlib.metadata
import io
import os
import re
import shutil
import subprocess
import sys
import tempfile
import uuid
import zipfile
from dataclasses import dataclass
from pathlib import Path

from google.cloud import functions_v2 as gf
from google.iam.v1 import iam_policy_pb2, policy_pb2
from google.longrunning.operations_pb2 import Operation
from google.protobuf.field_mask_pb2 import FieldMask

from rehearsal import operations, ports
from rehearsal.errors import Refused, invalid, precondition, unimplemented
from rehearsal.resources import Kind, place
from rehearsal.world import World, canonical, now

HOST = "127.0.0.1"
UPLOADS = "/rehearsal/uploads/"
RUNTIMES = ("python311", "python312", "python313")
PIN = re.compile(r"([A-Za-z0-9_.-]+)==([A-Za-z0-9_.]+)(?:\+\w+)?")
START_S = 60
Stages = gf.Stage.Name


@dataclass
class Service:
    """A function that runs."""

    process: ports.Process
    folder: Path

    def stop(self) -> None:
        """End it as Cloud Run does: SIGTERM, and SIGKILL ten seconds later."""
        ports.end(self.process)
        shutil.rmtree(self.folder, ignore_errors=True)


def upload_url(world: World, request: gf.GenerateUploadUrlRequest) -> gf.GenerateUploadUrlResponse:
    """Return where a source is to be put."""
    name = f"{uuid.uuid4()}.zip"
    bucket = f"gcf-v2-uploads-{canonical(request.parent).split('/')[1]}"
    return gf.GenerateUploadUrlResponse(
        upload_url=f"{world.url}{UPLOADS}{name}",
        storage_source=gf.StorageSource(bucket=bucket, object_=name),
    )


def runtimes(*_: object) -> gf.ListRuntimesResponse:
    """Return the Pythons."""
    kind = {"stage": "GA", "environment": "GEN_2"}
    listed = [{"name": name, "display_name": name, **kind} for name in RUNTIMES]
    return gf.ListRuntimesResponse(runtimes=listed)


class Functions(Kind):
    """Functions, each with the process that answers for it."""

    metadata = gf.OperationMetadata

    def delete(self, world: World, request: gf.DeleteFunctionRequest) -> Operation:
        """End a function."""
        if service := world.services.pop(canonical(request.name), None):
            service.stop()
        return super().delete(world, request)


def create(world: World, request: gf.CreateFunctionRequest) -> Operation:
    """Build and start a function."""
    name = f"{request.parent}/functions/{request.function_id}"
    if canonical(name) in world.functions:
        raise Refused("ALREADY_EXISTS", f"Could not create Cloud Run function {name}.")
    function = gf.Function(request.function)
    function.name, function.environment = name, "GEN_2"
    return _deployed(world, function, "CreateFunction")


def update(world: World, request: gf.UpdateFunctionRequest) -> Operation:
    """Build and start a function anew, with the fields that the mask names changed."""
    was = KIND.find(world, request.function.name)
    function = gf.Function(was)
    mask = FieldMask(paths=request.update_mask.paths)
    mask.MergeMessage(gf.Function.pb(request.function), gf.Function.pb(function), True, True)
    return _deployed(world, function, "UpdateFunction")


def policy(
    world: World, request: iam_policy_pb2.GetIamPolicyRequest | iam_policy_pb2.SetIamPolicyRequest
) -> policy_pb2.Policy:
    """Return who may invoke a function's service, or write it down."""
    if isinstance(request, iam_policy_pb2.SetIamPolicyRequest):
        world.invokers[canonical(request.resource)] = request.policy
    return world.invokers.get(canonical(request.resource), policy_pb2.Policy())


def end_all(world: World) -> None:
    """End every function."""
    for service in world.services.values():
        service.stop()
    world.services.clear()


def _deployed(world: World, function: gf.Function, rpc: str) -> Operation:
    _check(function)
    name, metadata = canonical(function.name), gf.OperationMetadata(target=function.name)
    metadata.create_time, metadata.api_version = now(), "v2"
    waiting = gf.Stage.State.NOT_STARTED
    metadata.stages = [
        gf.Stage(name=name, state=waiting) for name in (Stages.BUILD, Stages.SERVICE)
    ]

    def work(_: operations.Operation) -> gf.Function:
        for stage in metadata.stages:
            stage.state = gf.Stage.State.IN_PROGRESS
        service, uri = _start(world, function)
        if old := world.services.pop(name, None):
            old.stop()
        world.services[name] = service
        function.state, function.update_time = gf.Function.State.ACTIVE, now()
        function.url = function.service_config.uri = uri
        identity = function.name.rsplit("/", 1)[-1]
        function.service_config.service = f"{place(function.name)}/services/{identity}"
        function.service_config.revision = f"{identity}-{world.serial()}"
        for stage in metadata.stages:
            stage.state = gf.Stage.State.COMPLETE
        world.functions[name] = function
        return function

    return operations.start(world, place(name), rpc, work, metadata)


def _check(function: gf.Function) -> None:
    """Raise Refused for what Google's documents say is refused."""
    build, service = function.build_config, function.service_config
    if build.runtime not in RUNTIMES:
        raise invalid(f"Runtime {build.runtime!r} is unsupported.")
    cpu, memory = float(service.available_cpu or 1), _mebibytes(service.available_memory or "256Mi")
    wrong = ""
    if cpu < 1 and service.max_instance_request_concurrency > 1:
        wrong = "cpu: Invalid value specified for cpu. Total cpu < 1 is not supported with concurrency > 1."
    elif (cpu < 0.5 and memory > 512) or (cpu < 1 and memory > 1024):
        wrong = f"memory: Invalid value: {memory} MiB with {cpu} cpu."
    if wrong:
        where = "spec.template.spec.containers.resources.limits"
        raise invalid(f"Could not create or update Cloud Run service. {where}.{wrong}")


def _mebibytes(quantity: str) -> float:
    """Read Kubernetes's way to write memory; raise Refused."""
    match = re.fullmatch(r"([0-9.]+)(Mi|Gi|M|G)", quantity)
    if match is None:
        raise invalid(f"Invalid memory: {quantity}")
    return float(match[1]) * {"Mi": 1, "Gi": 1024, "M": 1e6 / 2**20, "G": 1e9 / 2**20}[match[2]]


def _start(world: World, function: gf.Function) -> tuple[Service, str]:
    """Unpack a function's source, run it, and return it with its URL once it listens; raise Refused."""
    source = function.build_config.source.storage_source.object_
    if source not in world.uploads:
        raise invalid(f"Source {source} was never uploaded.")
    folder = Path(tempfile.mkdtemp(prefix="rehearsal-function-"))
    try:
        with zipfile.ZipFile(io.BytesIO(world.uploads[source])) as packed:
            packed.extractall(folder)
        _build(folder)
        return _run(world, function, folder)
    except BaseException:
        shutil.rmtree(folder, ignore_errors=True)
        raise


def _build(folder: Path) -> None:
    """Hold the requirements against what is installed here; raise Refused."""
    if not (folder / "main.py").is_file():
        raise invalid("Build failed: missing main.py and GOOGLE_FUNCTION_SOURCE not specified.")
    file = folder / "requirements.txt"
    for line in file.read_text().splitlines() if file.is_file() else []:
        if not line.strip() or line.startswith(("#", "--extra-index-url ")):
            continue
        if not (wanted := PIN.fullmatch(line.strip())):
            raise unimplemented(f"requirements.txt: {line!r}: NAME==VERSION is played")
        try:
            installed = importlib.metadata.version(wanted[1]).partition("+")[0]
        except importlib.metadata.PackageNotFoundError:
            installed = "none"
        if installed != wanted[2]:
            where = "here, where functions are built"
            raise invalid(f"Build failed: no {line.strip()} {where}: {installed} is")


def _run(world: World, function: gf.Function, folder: Path) -> tuple[Service, str]:
    config, port = function.service_config, ports.free(HOST)
    inherited = [name for name in ("PATH", "HOME", "LANG", "TMPDIR") if name in os.environ]
    environ = {
        **{name: os.environ[name] for name in inherited},
        **config.environment_variables,
        "PORT": str(port),
        "K_SERVICE": function.name.rsplit("/", 1)[-1],
        "FUNCTION_TARGET": function.build_config.entry_point,
        "STORAGE_EMULATOR_HOST": world.rules.storage,
        "PYTHONDONTWRITEBYTECODE": "1",
    }
    command = [sys.executable, "-m", "functions_framework", f"--host={HOST}"]
    log = folder / "log"
    with log.open("wb") as output:
        process = subprocess.Popen(command, cwd=folder, env=environ, stdout=output, stderr=output)
    if not ports.await_port(process, HOST, port, START_S):
        ports.end(process)
        last = log.read_text(errors="replace").strip().rpartition("\n")[2]
        message = (
            "The user-provided container failed to start and listen on the port defined by PORT"
        )
        raise precondition(f"{message}={port}: its last line: {last}")
    return Service(process, folder), f"http://{HOST}:{port}"


KIND = Functions("Function", lambda world: world.functions, gf.ListFunctionsResponse)
METHODS = {
    **KIND.methods(),
    "GenerateUploadUrl": upload_url,
    "ListRuntimes": runtimes,
    "CreateFunction": create,
    "UpdateFunction": update,
    "GetIamPolicy": policy,
    "SetIamPolicy": policy,
}
