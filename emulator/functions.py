"""Cloud Functions (2nd gen): runs the source that gcloud uploads, with functions-framework.

Functions run on this Python with its packages, and those of their requirements.txt that are missing.
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
from importlib import metadata
from pathlib import Path

from google.cloud import functions_v2 as gf
from google.iam.v1 import iam_policy_pb2, policy_pb2
from google.longrunning.operations_pb2 import Operation
from google.protobuf.field_mask_pb2 import FieldMask

from emulator import operations, processes
from emulator.errors import ApiError, failed_precondition, invalid_argument
from emulator.resources import Method, ResourceType, location_path
from emulator.state import State, canonical_name, now
from project.environment import InstallError, create_environment
from project.model_folder import REQUIREMENTS

HOST = "127.0.0.1"
UPLOADS = "/emulator/uploads/"
"""Path of the emulator to which gcloud uploads a source."""
RUNTIMES = ("python311", "python312", "python313")
START_TIMEOUT_S = 60


@dataclass(frozen=True)
class FunctionProcess:
    """The running process of a function, and its folder."""

    process: processes.Process
    folder: Path

    def stop(self) -> None:
        """Stop it as Cloud Run does: SIGTERM, and SIGKILL ten seconds later."""
        processes.terminate(self.process)
        shutil.rmtree(self.folder, ignore_errors=True)


class FunctionType(ResourceType):
    """Functions, each with its process."""

    metadata = gf.OperationMetadata

    def delete(self, state: State, request: gf.DeleteFunctionRequest) -> Operation:
        """Stop a function and start to delete it."""
        if process := state.function_processes.pop(canonical_name(request.name), None):
            process.stop()
        return super().delete(state, request)


FUNCTIONS = FunctionType("Function", lambda state: state.functions, gf.ListFunctionsResponse)


def generate_upload_url(
    state: State, request: gf.GenerateUploadUrlRequest
) -> gf.GenerateUploadUrlResponse:
    """Return the URL to upload a source to."""
    name = f"{uuid.uuid4()}.zip"
    bucket = f"gcf-v2-uploads-{canonical_name(request.parent).split('/')[1]}"
    return gf.GenerateUploadUrlResponse(
        upload_url=f"{state.url}{UPLOADS}{name}",
        storage_source=gf.StorageSource(bucket=bucket, object_=name),
    )


def list_runtimes(*_: object) -> gf.ListRuntimesResponse:
    """Return the versions of Python."""
    fields = {"stage": "GA", "environment": "GEN_2"}
    runtimes = [{"name": name, "display_name": name, **fields} for name in RUNTIMES]
    return gf.ListRuntimesResponse(runtimes=runtimes)


def create(state: State, request: gf.CreateFunctionRequest) -> Operation:
    """Start to build and run a function."""
    name = f"{request.parent}/functions/{request.function_id}"
    if canonical_name(name) in state.functions:
        raise ApiError("ALREADY_EXISTS", f"Could not create Cloud Run function {name}.")
    function = gf.Function(request.function)
    function.name, function.environment = name, "GEN_2"
    return _deploy(state, function, "CreateFunction")


def update(state: State, request: gf.UpdateFunctionRequest) -> Operation:
    """Start to rebuild and restart a function, with the fields in the mask changed."""
    function = gf.Function(FUNCTIONS.find(state, request.function.name))
    mask = FieldMask(paths=request.update_mask.paths)
    mask.MergeMessage(gf.Function.pb(request.function), gf.Function.pb(function), True, True)
    return _deploy(state, function, "UpdateFunction")


def handle_iam_policy(
    state: State, request: iam_policy_pb2.GetIamPolicyRequest | iam_policy_pb2.SetIamPolicyRequest
) -> policy_pb2.Policy:
    """Return or set the IAM policy of a function's service, which controls its callers."""
    service = canonical_name(request.resource)
    if isinstance(request, iam_policy_pb2.SetIamPolicyRequest):
        state.iam_policies[service] = request.policy
    return state.iam_policies.get(service, policy_pb2.Policy())


def stop_all(state: State) -> None:
    """Stop every function."""
    for process in state.function_processes.values():
        process.stop()
    state.function_processes.clear()


def _deploy(state: State, function: gf.Function, rpc: str) -> Operation:
    if function.build_config.runtime not in RUNTIMES:
        raise invalid_argument(f"Runtime {function.build_config.runtime!r} is unsupported.")
    name, metadata = canonical_name(function.name), gf.OperationMetadata(target=function.name)
    metadata.create_time, metadata.api_version = now(), "v2"
    metadata.stages = [
        gf.Stage(name=stage, state=gf.Stage.State.NOT_STARTED)
        for stage in (gf.Stage.Name.BUILD, gf.Stage.Name.SERVICE)
    ]

    def work(_: operations.Operation) -> gf.Function:
        for stage in metadata.stages:
            stage.state = gf.Stage.State.IN_PROGRESS
        process, url = _start(state, function)
        if old := state.function_processes.pop(name, None):
            old.stop()
        state.function_processes[name] = process
        function.state, function.update_time = gf.Function.State.ACTIVE, now()
        function.url = function.service_config.uri = url
        function_id = function.name.rsplit("/", 1)[-1]
        function.service_config.service = f"{location_path(function.name)}/services/{function_id}"
        function.service_config.revision = f"{function_id}-{state.next_id()}"
        for stage in metadata.stages:
            stage.state = gf.Stage.State.COMPLETE
        state.functions[name] = function
        return function

    return operations.start(state, location_path(name), rpc, work, metadata)


def _start(state: State, function: gf.Function) -> tuple[FunctionProcess, str]:
    """Unpack and run a function's source; return its process and URL once it listens; raise ApiError."""
    source = function.build_config.source.storage_source.object_
    if source not in state.uploads:
        raise invalid_argument(f"Source {source} was never uploaded.")
    folder = Path(tempfile.mkdtemp(prefix="emulator-function-"))
    try:
        with zipfile.ZipFile(io.BytesIO(state.uploads[source])) as archive:
            archive.extractall(folder)
        return _run(state, function, folder)
    except BaseException:
        shutil.rmtree(folder, ignore_errors=True)
        raise


def _run(state: State, function: gf.Function, folder: Path) -> tuple[FunctionProcess, str]:
    config, port = function.service_config, processes.free_port(HOST)
    inherited = [name for name in ("PATH", "HOME", "LANG", "TMPDIR") if name in os.environ]
    env = {
        **{name: os.environ[name] for name in inherited},
        **config.environment_variables,
        "PORT": str(port),
        "K_SERVICE": function.name.rsplit("/", 1)[-1],
        "FUNCTION_TARGET": function.build_config.entry_point,
        "STORAGE_EMULATOR_HOST": state.config.storage_url,
        "PYTHONDONTWRITEBYTECODE": "1",
    }
    command = [_find_python(folder), "-m", "functions_framework", f"--host={HOST}"]
    log = folder / "log"
    with log.open("wb") as output:
        process = subprocess.Popen(command, cwd=folder, env=env, stdout=output, stderr=output)
    if not processes.wait_for_port(process, HOST, port, START_TIMEOUT_S):
        processes.terminate(process)
        last_line = log.read_text(errors="replace").strip().rpartition("\n")[2]
        raise failed_precondition(
            "The user-provided container failed to start and listen on the port defined by PORT"
            f"={port}: its last line: {last_line}"
        )
    return FunctionProcess(process, folder), f"http://{HOST}:{port}"


def _find_python(folder: Path) -> str:
    """Return a Python with the packages of a source's requirements.txt; raise ApiError."""
    file = folder / REQUIREMENTS
    lines = file.read_text().split("\n") if file.exists() else []
    if all(_is_installed(line) for line in lines if line and not line.startswith(("#", "-"))):
        return sys.executable
    try:
        return str(create_environment(folder / "venv", folder))
    except InstallError as error:
        raise failed_precondition(f"Build failed: {error}") from None


def _is_installed(requirement: str) -> bool:
    name, _, version = requirement.partition("==")
    try:
        return metadata.version(name) == version
    except (metadata.PackageNotFoundError, ValueError):
        return False


METHODS: dict[str, Method] = {
    **FUNCTIONS.methods(),
    "GenerateUploadUrl": generate_upload_url,
    "ListRuntimes": list_runtimes,
    "CreateFunction": create,
    "UpdateFunction": update,
    "GetIamPolicy": handle_iam_policy,
    "SetIamPolicy": handle_iam_policy,
}
