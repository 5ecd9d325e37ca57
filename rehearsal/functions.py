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
import time
import uuid
import zipfile
from dataclasses import dataclass
from pathlib import Path

from google.cloud import functions_v2 as gf
from google.iam.v1 import iam_policy_pb2, policy_pb2
from google.longrunning.operations_pb2 import Operation
from google.protobuf.empty_pb2 import Empty
from google.protobuf.field_mask_pb2 import FieldMask

from rehearsal import operations, ports
from rehearsal.errors import Refused, not_found
from rehearsal.world import World, canonical, now, page

HOST = "127.0.0.1"
UPLOADS = "/rehearsal/uploads/"
RUNTIMES = ("python311", "python312", "python313")
PIN = re.compile(r"([A-Za-z0-9_.-]+)==([A-Za-z0-9_.]+)(?:\+\w+)?")
START_S = 60
Stages = gf.Stage.Name


@dataclass
class Service:
    """A function that runs."""

    process: "subprocess.Popen[bytes]"
    folder: Path

    def stop(self) -> None:
        """End it as Cloud Run does: SIGTERM, and SIGKILL ten seconds later."""
        self.process.terminate()
        try:
            self.process.wait(10)
        except subprocess.TimeoutExpired:
            self.process.kill()
            self.process.wait(10)
        shutil.rmtree(self.folder, ignore_errors=True)


def upload_url(world: World, request: gf.GenerateUploadUrlRequest) -> gf.GenerateUploadUrlResponse:
    """Return where a source is to be put."""
    name = f"{uuid.uuid4()}.zip"
    bucket = f"gcf-v2-uploads-{canonical(request.parent).split('/')[1]}"
    return gf.GenerateUploadUrlResponse(
        upload_url=f"{world.url}{UPLOADS}{name}",
        storage_source=gf.StorageSource(bucket=bucket, object_=name),
    )


def runtimes(_: World, request: gf.ListRuntimesRequest) -> gf.ListRuntimesResponse:
    """Return the Pythons."""
    del request
    listed = [
        gf.ListRuntimesResponse.Runtime(
            name=name, stage="GA", environment="GEN_2", display_name=name
        )
        for name in RUNTIMES
    ]
    return gf.ListRuntimesResponse(runtimes=listed)


def get(world: World, request: gf.GetFunctionRequest) -> gf.Function:
    """Return a function."""
    found = world.functions.get(canonical(request.name))
    if found is None:
        raise not_found("function", request.name)
    return found


def list_(world: World, request: gf.ListFunctionsRequest) -> gf.ListFunctionsResponse:
    """Return a location's functions."""
    under = re.compile(re.escape(canonical(request.parent)).replace("/\\-", "/[^/]+") + "/.*")
    found, token = page(
        (each for name, each in world.functions.items() if under.fullmatch(name)), request
    )
    return gf.ListFunctionsResponse(functions=found, next_page_token=token)


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
    was = get(world, gf.GetFunctionRequest(name=request.function.name))
    function = gf.Function(was)
    mask = FieldMask(paths=request.update_mask.paths)
    mask.MergeMessage(gf.Function.pb(request.function), gf.Function.pb(function), True, True)
    return _deployed(world, function, "UpdateFunction")


def delete(world: World, request: gf.DeleteFunctionRequest) -> Operation:
    """End a function."""
    name = canonical(get(world, gf.GetFunctionRequest(name=request.name)).name)

    def work(_: operations.Operation) -> Empty:
        world.functions.pop(name, None)
        if service := world.services.pop(name, None):
            service.stop()
        return Empty()

    return operations.start(world, _location(name), gf.OperationMetadata(), "DeleteFunction", work)


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
    metadata.stages = [
        gf.Stage(name=stage, state=gf.Stage.State.NOT_STARTED)
        for stage in (Stages.BUILD, Stages.SERVICE)
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
        function.service_config.service = f"{_location(function.name)}/services/{identity}"
        function.service_config.revision = f"{identity}-{world.serial()}"
        for stage in metadata.stages:
            stage.state = gf.Stage.State.COMPLETE
        world.functions[name] = function
        return function

    return operations.start(world, _location(name), metadata, rpc, work)


def _check(function: gf.Function) -> None:
    """Raise Refused for what Google's documents say is refused."""
    build, service = function.build_config, function.service_config
    if build.runtime not in RUNTIMES:
        raise Refused("INVALID_ARGUMENT", f"Runtime {build.runtime!r} is unsupported.")
    cpu, memory = float(service.available_cpu or 1), _mebibytes(service.available_memory or "256Mi")
    wrong = "Could not create or update Cloud Run service. spec.template.spec.containers.resources.limits"
    if cpu < 1 and service.max_instance_request_concurrency > 1:
        raise Refused(
            "INVALID_ARGUMENT",
            f"{wrong}.cpu: Invalid value specified for cpu. Total cpu < 1 is not supported with concurrency > 1.",
        )
    if (cpu < 0.5 and memory > 512) or (cpu < 1 and memory > 1024):
        raise Refused(
            "INVALID_ARGUMENT", f"{wrong}.memory: Invalid value: {memory} MiB with {cpu} cpu."
        )


def _mebibytes(quantity: str) -> float:
    """Read Kubernetes's way to write memory; raise Refused."""
    match = re.fullmatch(r"([0-9.]+)(Mi|Gi|M|G)", quantity)
    if match is None:
        raise Refused("INVALID_ARGUMENT", f"Invalid memory: {quantity}")
    return float(match[1]) * {"Mi": 1, "Gi": 1024, "M": 1e6 / 2**20, "G": 1e9 / 2**20}[match[2]]


def _start(world: World, function: gf.Function) -> tuple[Service, str]:
    """Unpack a function's source, run it, and return it with its URL once it listens; raise Refused."""
    folder = Path(tempfile.mkdtemp(prefix="function-"))
    try:
        _unpack(world, function.build_config.source.storage_source.object_, folder)
        _build(folder)
        return _run(world, function, folder)
    except BaseException:
        shutil.rmtree(folder, ignore_errors=True)
        raise


def _unpack(world: World, source: str, folder: Path) -> None:
    if source not in world.uploads:
        raise Refused("INVALID_ARGUMENT", f"Source {source} was never uploaded.")
    with zipfile.ZipFile(io.BytesIO(world.uploads[source])) as packed:
        packed.extractall(folder)


def _build(folder: Path) -> None:
    """Hold the requirements against what is installed here; raise Refused."""
    if not (folder / "main.py").is_file():
        raise Refused(
            "INVALID_ARGUMENT",
            "Build failed: missing main.py and GOOGLE_FUNCTION_SOURCE not specified.",
        )
    file = folder / "requirements.txt"
    for line in file.read_text().splitlines() if file.is_file() else []:
        if not (wanted := PIN.fullmatch(line.strip())):
            if line.strip() and not line.startswith(("#", "--extra-index-url ")):
                raise Refused(
                    "UNIMPLEMENTED", f"requirements.txt: {line!r}: NAME==VERSION is played"
                )
            continue
        try:
            installed = importlib.metadata.version(wanted[1]).partition("+")[0]
        except importlib.metadata.PackageNotFoundError:
            installed = "none"
        if installed != wanted[2]:
            raise Refused(
                "INVALID_ARGUMENT",
                f"Build failed: no {line.strip()} here, where functions are built: {installed} is",
            )


def _run(world: World, function: gf.Function, folder: Path) -> tuple[Service, str]:
    config, port = function.service_config, ports.free(HOST)
    environ = {
        name: os.environ[name] for name in ("PATH", "HOME", "LANG", "TMPDIR") if name in os.environ
    }
    environ |= dict(config.environment_variables)
    environ |= {
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
    until = time.monotonic() + START_S
    while not ports.listens(HOST, port):
        if process.poll() is not None or time.monotonic() > until:
            process.kill()
            process.wait(10)
            said = log.read_text(errors="replace").strip().rpartition("\n")[2]
            raise Refused(
                "FAILED_PRECONDITION",
                "The user-provided container failed to start and listen on the port defined by PORT="
                f"{port}: its last line: {said}",
            )
        time.sleep(0.1)
    return Service(process, folder), f"http://{HOST}:{port}"


def _location(name: str) -> str:
    return "/".join(name.split("/")[:4])


METHODS = {
    "GenerateUploadUrl": upload_url,
    "ListRuntimes": runtimes,
    "GetFunction": get,
    "ListFunctions": list_,
    "CreateFunction": create,
    "UpdateFunction": update,
    "DeleteFunction": delete,
    "GetIamPolicy": policy,
    "SetIamPolicy": policy,
}
