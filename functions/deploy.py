"""Deploy a function with gcloud, after its model in the bucket has been checked."""

import functools
import shlex
import tempfile
from contextlib import closing
from dataclasses import dataclass
from pathlib import Path

from google.auth.exceptions import GoogleAuthError

import storage
from deploy.errors import UserError
from deploy.programs import Programs
from functions.packaging import assemble
from functions.registry import RUNTIME, Function
from storage.files import StorageError
from storage.lazy import PIN_VARIABLE, URI_VARIABLE, sha256

TIMEOUT_S = 1200
"""Limit for gcloud: a build with torch takes about five minutes."""


@dataclass(frozen=True, kw_only=True)
class Target:
    """Where and how a function is deployed."""

    project: str
    region: str
    uri: str
    """gs://BUCKET/FOLDER of the model."""
    allow_unauthenticated: bool
    service_account: str
    """The function's identity, an e-mail address; empty: the project's default service account."""


def default_model_uri(function: Function, project: str) -> str:
    """Return the URI of a function's model if none is given."""
    return f"gs://{project}-models/{function.name}"


def deploy(function: Function, target: Target, *, dry_run: bool = False) -> None:
    """Deploy a function, and print how to call and delete it; raise UserError."""
    environ = _build_environment(function, target.uri)
    command = build_gcloud_command(function, target, assemble(function), environ)
    programs = Programs(functools.partial(print, flush=True), dry_run, TIMEOUT_S)
    failed = UserError(
        "gcloud functions deploy failed; its output above has the reason",
        "docs/functions.md lists the requirements; run the same command again to continue",
    )
    programs.run(command, failed, show_output=True)
    if dry_run:
        return
    name = _identify(function, target)
    describe = ["gcloud", "functions", "describe", *name, "--format=value(serviceConfig.uri)"]
    url = programs.run(describe, failed).strip()
    authorization = ' -H "Authorization: Bearer $(gcloud auth print-identity-token)"'
    options = f"{'' if target.allow_unauthenticated else authorization} {function.curl_options}"
    print(f"\n{function.name} is deployed at {url}:\n\n  curl{options} {url}\n")
    print(f"It costs nothing while idle. To delete it: gcloud functions delete {shlex.join(name)}")


def build_gcloud_command(
    function: Function, target: Target, source: Path, environ: dict[str, str]
) -> list[str]:
    """Return the arguments of `gcloud functions deploy`."""
    variables = "^;^" + ";".join(f"{name}={value}" for name, value in environ.items())
    return [
        "gcloud",
        "functions",
        "deploy",
        *_identify(function, target),
        f"--runtime={RUNTIME}",
        f"--source={source}",
        f"--entry-point={function.entry_point}",
        "--trigger-http",
        "--allow-unauthenticated" if target.allow_unauthenticated else "--no-allow-unauthenticated",
        f"--memory={function.memory}",
        f"--cpu={function.cpu}",
        f"--concurrency={function.concurrency}",
        f"--timeout={function.timeout_s}s",
        "--min-instances=0",
        f"--max-instances={function.max_instances}",
        *([f"--set-env-vars={variables}"] if environ else ["--clear-env-vars"]),
        *([f"--service-account={target.service_account}"] if target.service_account else []),
        "--format=none",
        "--quiet",
    ]


def _identify(function: Function, target: Target) -> list[str]:
    return [function.name, "--gen2", f"--project={target.project}", f"--region={target.region}"]


def _build_environment(function: Function, uri: str) -> dict[str, str]:
    """Return a function's variables; raise UserError if its model is not in the bucket."""
    if not function.files:
        return {}
    if storage.split_uri(uri) is None:
        raise UserError(f"{uri}: expected a bucket for the model", "set STORAGE=gs://BUCKET/FOLDER")
    try:
        checksums = _fetch_checksums(function, uri)
    except StorageError as error:
        if isinstance(error.__cause__, GoogleAuthError):
            raise UserError(str(error), "gcloud auth application-default login") from None
        selection = function.model.selection if function.model else f"NAME={function.name}"
        hint = f"make upload-model {selection} STORAGE={uri}"
        raise UserError(str(error), hint) from None
    # Write access to the bucket is not enough to change the model: other files need a deployment.
    return {URI_VARIABLE: uri, PIN_VARIABLE: checksums}


def _fetch_checksums(function: Function, uri: str) -> str:
    """Return the SHA-256 of each model file in the bucket, separated by commas; raise StorageError."""
    with (
        tempfile.TemporaryDirectory() as folder,
        closing(storage.open_storage(uri, print)) as source,
    ):
        available = source.list_files()
        if missing := [name for name in function.files if name not in available]:
            raise StorageError(f"{uri}: {', '.join(missing)} not found")
        for name in function.files:
            (Path(folder) / name).parent.mkdir(parents=True, exist_ok=True)
            source.fetch(name, Path(folder) / name)
        return ",".join(sha256(Path(folder) / name) for name in function.files)
