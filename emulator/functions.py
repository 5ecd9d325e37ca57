"""Cloud Functions of the second generation: the source that gcloud uploads, run by functions-framework.

Each runs on this machine's own Python and packages; what its requirements name is not installed.
"""

import io
import os
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

from emulator import operations, processes
from emulator.errors import ApiError, failed_precondition, invalid_argument
from emulator.resources import Kind, place
from emulator.state import State, canonical_name, now

HOST = "127.0.0.1"
UPLOADS = "/rehearsal/uploads/"
RUNTIMES = ("python311", "python312", "python313")
START_S = 60
Stages = gf.Stage.Name


@dataclass
class Service:
    """A function that runs."""

    process: processes.Process
    folder: Path

    def stop(self) -> None:
        """End it as Cloud Run does: SIGTERM, and SIGKILL ten seconds later."""
        processes.terminate(self.process)
        shutil.rmtree(self.folder, ignore_errors=True)


def upload_url(state: State, request: gf.GenerateUploadUrlRequest) -> gf.GenerateUploadUrlResponse:
    """Return where a source is to be put."""
    name = f"{uuid.uuid4()}.zip"
    bucket = f"gcf-v2-uploads-{canonical_name(request.parent).split('/')[1]}"
    return gf.GenerateUploadUrlResponse(
        upload_url=f"{state.url}{UPLOADS}{name}",
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

    def delete(self, state: State, request: gf.DeleteFunctionRequest) -> Operation:
        """End a function."""
        if service := state.services.pop(canonical_name(request.name), None):
            service.stop()
        return super().delete(state, request)


def create(state: State, request: gf.CreateFunctionRequest) -> Operation:
    """Build and start a function."""
    name = f"{request.parent}/functions/{request.function_id}"
    if canonical_name(name) in state.functions:
        raise ApiError("ALREADY_EXISTS", f"Could not create Cloud Run function {name}.")
    function = gf.Function(request.function)
    function.name, function.environment = name, "GEN_2"
    return _deployed(state, function, "CreateFunction")


def update(state: State, request: gf.UpdateFunctionRequest) -> Operation:
    """Build and start a function anew, with the fields that the mask names changed."""
    was = KIND.find(state, request.function.name)
    function = gf.Function(was)
    mask = FieldMask(paths=request.update_mask.paths)
    mask.MergeMessage(gf.Function.pb(request.function), gf.Function.pb(function), True, True)
    return _deployed(state, function, "UpdateFunction")


def policy(
    state: State, request: iam_policy_pb2.GetIamPolicyRequest | iam_policy_pb2.SetIamPolicyRequest
) -> policy_pb2.Policy:
    """Return who may invoke a function's service, or write it down."""
    if isinstance(request, iam_policy_pb2.SetIamPolicyRequest):
        state.iam_policies[canonical_name(request.resource)] = request.policy
    return state.iam_policies.get(canonical_name(request.resource), policy_pb2.Policy())


def stop_all(state: State) -> None:
    """End every function."""
    for service in state.services.values():
        service.stop()
    state.services.clear()


def _deployed(state: State, function: gf.Function, rpc: str) -> Operation:
    if function.build_config.runtime not in RUNTIMES:
        raise invalid_argument(f"Runtime {function.build_config.runtime!r} is unsupported.")
    name, metadata = canonical_name(function.name), gf.OperationMetadata(target=function.name)
    metadata.create_time, metadata.api_version = now(), "v2"
    waiting = gf.Stage.State.NOT_STARTED
    metadata.stages = [
        gf.Stage(name=name, state=waiting) for name in (Stages.BUILD, Stages.SERVICE)
    ]

    def work(_: operations.Operation) -> gf.Function:
        for stage in metadata.stages:
            stage.state = gf.Stage.State.IN_PROGRESS
        service, uri = _start(state, function)
        if old := state.services.pop(name, None):
            old.stop()
        state.services[name] = service
        function.state, function.update_time = gf.Function.State.ACTIVE, now()
        function.url = function.service_config.uri = uri
        identity = function.name.rsplit("/", 1)[-1]
        function.service_config.service = f"{place(function.name)}/services/{identity}"
        function.service_config.revision = f"{identity}-{state.next_id()}"
        for stage in metadata.stages:
            stage.state = gf.Stage.State.COMPLETE
        state.functions[name] = function
        return function

    return operations.start(state, place(name), rpc, work, metadata)


def _start(state: State, function: gf.Function) -> tuple[Service, str]:
    """Unpack a function's source, run it, and return it with its URL once it listens; raise Refused."""
    source = function.build_config.source.storage_source.object_
    if source not in state.uploads:
        raise invalid_argument(f"Source {source} was never uploaded.")
    folder = Path(tempfile.mkdtemp(prefix="rehearsal-function-"))
    try:
        with zipfile.ZipFile(io.BytesIO(state.uploads[source])) as packed:
            packed.extractall(folder)
        return _run(state, function, folder)
    except BaseException:
        shutil.rmtree(folder, ignore_errors=True)
        raise


def _run(state: State, function: gf.Function, folder: Path) -> tuple[Service, str]:
    config, port = function.service_config, processes.free_port(HOST)
    inherited = [name for name in ("PATH", "HOME", "LANG", "TMPDIR") if name in os.environ]
    environ = {
        **{name: os.environ[name] for name in inherited},
        **config.environment_variables,
        "PORT": str(port),
        "K_SERVICE": function.name.rsplit("/", 1)[-1],
        "FUNCTION_TARGET": function.build_config.entry_point,
        "STORAGE_EMULATOR_HOST": state.config.storage,
        "PYTHONDONTWRITEBYTECODE": "1",
    }
    command = [sys.executable, "-m", "functions_framework", f"--host={HOST}"]
    log = folder / "log"
    with log.open("wb") as output:
        process = subprocess.Popen(command, cwd=folder, env=environ, stdout=output, stderr=output)
    if not processes.wait_for_port(process, HOST, port, START_S):
        processes.terminate(process)
        last = log.read_text(errors="replace").strip().rpartition("\n")[2]
        message = (
            "The user-provided container failed to start and listen on the port defined by PORT"
        )
        raise failed_precondition(f"{message}={port}: its last line: {last}")
    return Service(process, folder), f"http://{HOST}:{port}"


KIND = Functions("Function", lambda state: state.functions, gf.ListFunctionsResponse)
METHODS = {
    **KIND.methods(),
    "GenerateUploadUrl": upload_url,
    "ListRuntimes": runtimes,
    "CreateFunction": create,
    "UpdateFunction": update,
    "GetIamPolicy": policy,
    "SetIamPolicy": policy,
}
