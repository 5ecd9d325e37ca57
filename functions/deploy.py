"""Deploy a function with gcloud: everything that can be wrong is looked at before it begins."""

import functools
import shlex
import tempfile
from contextlib import closing
from pathlib import Path
from typing import NamedTuple

import storage
from deploy.errors import UserError
from deploy.programs import Programs
from functions import packaging
from functions.registry import RUNTIME, Function
from storage.files import StorageError
from storage.lazy import PIN_VARIABLE, URI_VARIABLE, sha256

LIMIT_S = 1200
"""How long gcloud may take: a build with torch in it takes some five minutes."""


class Target(NamedTuple):
    """Where a function goes."""

    project: str
    region: str
    uri: str
    """gs://BUCKET/FOLDER of its model"""
    public: bool
    """whether anybody may ask it"""
    service_account: str
    """e-mail of what it runs as; empty: the project's default"""


def default_uri(function: Function, project: str) -> str:
    """Return where a function's model lies unless something else is said."""
    return f"gs://{project}-models/{function.name}"


def command(function: Function, to: Target, folder: Path, environ: dict[str, str]) -> list[str]:
    """Return the words of `gcloud functions deploy`."""
    variables = "^;^" + ";".join(f"{name}={value}" for name, value in environ.items())
    return [
        "gcloud",
        "functions",
        "deploy",
        *_there(function, to),
        f"--runtime={RUNTIME}",
        f"--source={folder}",
        f"--entry-point={function.name}",
        "--trigger-http",
        "--allow-unauthenticated" if to.public else "--no-allow-unauthenticated",
        f"--memory={function.memory}",
        f"--cpu={function.cpu}",
        f"--concurrency={function.concurrency}",
        f"--timeout={function.timeout_s}s",
        "--min-instances=0",
        f"--max-instances={function.most_instances}",
        *([f"--set-env-vars={variables}"] if environ else ["--clear-env-vars"]),
        *([f"--service-account={to.service_account}"] if to.service_account else []),
        "--format=none",
        "--quiet",
    ]


def deploy(function: Function, to: Target, *, dry_run: bool = False) -> None:
    """Deploy a function, and say how it is asked and ended; raise Stop."""
    environ = _environment(function, to.uri)
    words, there = command(function, to, packaging.lay_out(function), environ), _there(function, to)
    programs = Programs(functools.partial(print, flush=True), dry_run, LIMIT_S)
    failed = UserError(
        "gcloud functions deploy failed, as it says above",
        "docs/functions.md says what it needs; the same command again goes on",
    )
    programs.run(words, failed, show_output=True)
    if dry_run:
        return
    described = ["gcloud", "functions", "describe", *there, "--format=value(serviceConfig.uri)"]
    url = programs.run(described, failed).strip()
    token = "" if to.public else ' -H "Authorization: Bearer $(gcloud auth print-identity-token)"'
    print(f"\n{function.name} answers at {url}:\n\n  curl{token} {function.example()} {url}\n")
    print(f"At rest it costs nothing. To end it: gcloud functions delete {shlex.join(there)}")


def _there(function: Function, to: Target) -> list[str]:
    return [function.name, "--gen2", f"--project={to.project}", f"--region={to.region}"]


def _environment(function: Function, uri: str) -> dict[str, str]:
    """Return a function's variables; raise Stop where its model is not in the bucket."""
    if not function.model:
        return {}
    if storage.split_uri(uri) is None:
        raise UserError(
            f"{uri}: a function fetches its model from a bucket", "STORAGE=gs://BUCKET/FOLDER"
        )
    try:
        pins = _pins(function, uri)
    except StorageError as error:
        raise UserError(
            str(error), f"make upload-model NAME={function.name} STORAGE={uri}"
        ) from None
    # Who can write to the bucket cannot change what is served: another file needs a deployment.
    return {URI_VARIABLE: uri, PIN_VARIABLE: pins}


def _pins(function: Function, uri: str) -> str:
    """Return the SHA-256 of a model's files in its bucket, commas between; raise StorageError."""
    with (
        tempfile.TemporaryDirectory() as folder,
        closing(storage.open_storage(uri, print)) as there,
    ):
        found = there.list_files()
        if missing := [each for each in function.model if each not in found]:
            raise StorageError(f"{uri}: {', '.join(missing)} missing in it")
        for name in function.model:
            there.fetch(name, Path(folder) / name)
        return ",".join(sha256(Path(folder) / name) for name in function.model)
