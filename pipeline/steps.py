"""The steps of the pipeline: each runs programs of this project and records its inputs and outputs.

This module uses only the standard library: a step runs in kfp's environment, and the programs run in their own, whose
Python the variable PIPELINE_PYTHON names. kfp's artifacts are passed in as objects with a path and metadata. Up to the
gate, the programs write into artifacts in place of build/, so that a rejected candidate changes nothing there.
"""

import contextlib
import dataclasses
import filecmp
import hashlib
import json
import os
import shlex
import shutil
import subprocess
import time
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any, Protocol

from pipeline.errors import StepError
from project.model_folder import OUTPUT_VARIABLE, VARIABLE, Model, find_model
from project.weights import find_program

STEPS = (
    "train",
    "archive",
    "evaluate",
    "gate",
    "build",
    "contract",
    "upload",
    "canary",
    "promote",
)
CACHED = ("train", "archive")
"""Steps whose outputs depend only on their inputs. The others read or change external state; so does `train` with
the user's own data or weights, which can change under the same name."""
ROOT = Path(__file__).resolve().parent.parent
RECORDS_VARIABLE = "PIPELINE_RECORD"
"""Names the file to which each step of a local run appends a record. On Vertex AI it is not set."""
STEP_LINE_PREFIX = "│ "
"""Marks the lines that the steps log in a local run: they are shown to the user, kfp's lines only go to the log."""
ARCHIVE_INPUTS = "archive.json"
"""The file beside an archive by which serving.archive decides whether it is up to date."""


class Artifact(Protocol):
    """A kfp artifact: the location of a file or a folder, and its metadata."""

    path: str
    uri: str
    metadata: dict[str, Any]


def train(
    model: str, *, weights: str, data: str, train_options: str, source_hash: str, trained: Artifact
) -> None:
    """Train, or fetch the trained weights at `weights`; `source_hash` is that of the training's sources."""
    candidate = _find_candidate(model, trained)
    source = {"weights": weights} if weights else {"data": data, "train_options": train_options}
    outputs = {"trained": trained}
    with _record_step("train", model, {}, outputs, source_hash=source_hash, **source):
        candidate.build.mkdir(parents=True, exist_ok=True)
        if weights:
            run_program(candidate, "storage", weights, str(candidate.weights))
        elif find_program(candidate):
            options = [*_to_options({"data": data}), *shlex.split(train_options)]
            run_program(candidate, "project.weights", *options)
        elif data or train_options:
            reason = f"{candidate.path} has no train.py, so --data and --train have no effect"
            raise StepError(f"{reason}; pass --weights, or none of them")
        else:
            log(f"{candidate.path} has no train.py: the weights in the folder are used")


def archive(model: str, trained: Artifact, archive_hash: str, packed: Artifact) -> None:
    """Measure the backends and pack the model; `archive_hash` is that of the sources beside the model's own."""
    candidate = _find_candidate(model, packed)
    artifacts: tuple[Any, Any] = {"trained": trained}, {"packed": packed}
    with _record_step("archive", model, *artifacts, archive_hash=archive_hash) as record:
        candidate.build.mkdir(parents=True, exist_ok=True)
        if Path(trained.path).is_dir():  # a bucket has no empty folders
            shutil.copytree(trained.path, packed.path, dirs_exist_ok=True)
        run_program(candidate, "serving.archive")
        record["archive"] = _hash_path(candidate.archive)


def evaluate(
    model: str,
    packed: Artifact,
    *,
    serving: str,
    report: Artifact,
    report_files: Artifact,
    project: str,
    region: str,
    **limits: float,
) -> dict[str, Any]:
    """Compare with the serving model within `limits` (options of pipeline.evaluate); return report.json's content."""
    candidate = _find_candidate(model, packed)
    outputs = {"report": report, "report_files": report_files}
    with _record_step("evaluate", model, {"packed": packed}, outputs, serving=serving, **limits):
        options = {"out": report_files.path, "serving": serving, **limits}
        if serving == "endpoint":
            options |= {"project": project, "region": region}
        run_program(candidate, "pipeline.evaluate", *_to_options(options))
        shutil.copyfile(Path(report_files.path) / "report.html", report.path)
        result: dict[str, Any] = json.loads((Path(report_files.path) / "report.json").read_text())
        return result


def gate(model: str, packed: Artifact, *, passed: bool, message: str) -> None:
    """Stop the pipeline if the candidate did not pass its evaluation; in a local run, install it in build/."""
    with _record_step("gate", model, {}, {}, message=message):
        if not passed:
            raise StepError(f"candidate rejected: {message}. The serving model stays in place.")
        log(message)
        if RECORDS_VARIABLE in os.environ:
            install(packed, model)


def build(model: str, packed: Artifact, builder: str, **target: str) -> str:
    """Build the image with the local Docker engine or Cloud Build; return its name."""
    options = _to_options({"builder": builder, **target})
    with _record_step("build", model, {"packed": packed}, {}, builder=builder) as record:
        installed = install(packed, model)
        if builder == "cloud":
            run_program(installed, "deploy", "build", *options)
            query = ("pipeline.checks", "image", *options)
            record["image"] = image = run_program(installed, *query, quiet=True).strip()
            return image
        # The tag comes from the content: the same archive results in the same image.
        sha256 = _hash_path(ROOT / installed.archive)
        record["image"] = tag = f"pipeline-{installed.name}:{sha256[:12]}"
        _run(["make", "build", f"IMAGE={tag}", f"DOCKER={_docker()}"], installed)
        return tag


def contract(model: str, packed: Artifact, image: str, builder: str, **target: str) -> None:
    """Test the image against Vertex AI's container contract.

    Cloud Build, which is used if there is no Docker engine, ran the tests before it pushed the image; then this step
    only checks that they passed.
    """
    with _record_step("contract", model, {}, {}, image=image):
        installed = install(packed, model)
        if builder == "cloud":
            options = _to_options({"builder": builder, **target})
            run_program(installed, "pipeline.checks", "contract", *options)
            return
        options = _to_options({"docker": _docker(), "instances": installed.requests})
        run_program(installed, "contract", image, *options)


def upload(model: str, packed: Artifact, **target: str) -> str:
    """Push the image if it is missing in the registry, and upload it as a model version; return its number."""
    with _record_step("upload", model, {"packed": packed}, {}, **target) as record:
        installed = install(packed, model)
        output = run_program(installed, "deploy", "upload", *_to_options(target))
        record["version"] = version = output.strip().splitlines()[-1]
        return version


def canary(
    model: str, version: str, traffic: int, project: str, region: str, **watched: str
) -> None:
    """Route part of the traffic to the version and watch it; route all traffic to it if it is the first."""
    target = {"project": project, "region": region}
    deployed, words = find_model(model, ROOT), _to_options(target)
    with _record_step("canary", model, {}, {}, version=version, traffic=traffic, **watched):
        query = ("pipeline.checks", "has-traffic", *words)
        if run_program(deployed, *query, quiet=True).strip() != "yes":
            log(f"no model is serving yet: version {version} is the first and gets all traffic")
            run_program(deployed, "deploy", "deploy", "--version", version, *words)
            return
        options = {"version": version, "traffic": traffic, **target}
        if watched.get("watch"):
            options |= watched
        run_program(deployed, "deploy", "canary", *_to_options(options))


def promote(model: str, version: str, **target: str) -> None:
    """Route all traffic to the version."""
    with _record_step("promote", model, {}, {}, version=version):
        run_program(find_model(model, ROOT), "deploy", "promote", *_to_options(target))


def install(packed: Artifact, model: str) -> Model:
    """Copy what was built for a candidate to build/NAME, unless it is there; return the model.

    Modification times are kept: serving.archive takes the copy for up to date.
    """
    installed, source = find_model(model, ROOT), _find_candidate(model, packed).build
    target = ROOT / installed.build
    files = (ARCHIVE_INPUTS, installed.archive.name)
    if not any(filecmp.cmpfiles(source, target, files, shallow=False)[1:]):
        return installed
    (target / ARCHIVE_INPUTS).unlink(missing_ok=True)
    for folder in (installed.weights, installed.packages):
        shutil.rmtree(ROOT / folder, ignore_errors=True)
    ignored = shutil.ignore_patterns(ARCHIVE_INPUTS)
    shutil.copytree(source, target, dirs_exist_ok=True, ignore=ignored, copy_function=_replace)
    shutil.copy2(source / ARCHIVE_INPUTS, target)
    return installed


def _replace(source: str, target: str) -> None:
    """Copy a file so that a server never reads a part of it."""
    shutil.copy2(source, f"{target}.part")
    os.replace(f"{target}.part", target)


def _find_candidate(model: str, artifact: Artifact) -> Model:
    """Return the model with an artifact in the place of build/."""
    return dataclasses.replace(find_model(model, ROOT), output=Path(artifact.path))


def log(line: str) -> None:
    """Print a line, with paths relative to the project's folder."""
    prefix = STEP_LINE_PREFIX if RECORDS_VARIABLE in os.environ else ""
    print(f"{prefix}{line.replace(f'{ROOT}/', '')}", flush=True)


def run_program(model: Model, module: str, *arguments: str, quiet: bool = False) -> str:
    """Run a program of the project, log its output unless `quiet`, and return it; raise StepError if it fails."""
    return _run([_find_python(), "-m", module, *arguments], model, quiet=quiet)


def _find_python() -> str:
    if python := os.environ.get("PIPELINE_PYTHON"):
        return python
    if python := os.environ.get("PROGRAMS"):
        log("warning: the variable PROGRAMS is deprecated: use PIPELINE_PYTHON")
        return python
    return str(ROOT / ".venv/bin/python")


def _to_options(values: Mapping[str, Any]) -> list[str]:
    """Return names and values as command-line options; empty strings are left out."""
    options = {name.replace("_", "-"): str(value) for name, value in values.items() if value != ""}
    return [argument for name, value in options.items() for argument in (f"--{name}", value)]


def _docker() -> str:
    return os.environ.get("DOCKER", "docker")


def _run(command: list[str], model: Model, *, quiet: bool = False) -> str:
    """Run a program for a model in the project's folder and return its output; raise StepError if it fails."""
    if not quiet:
        log(f"$ {shlex.join([Path(command[0]).name, *command[1:]])}")
    # make passes its own options to every make that it starts; these are not meant for ours.
    env = {name: value for name, value in os.environ.items() if name not in ("MAKEFLAGS", "MFLAGS")}
    env |= {VARIABLE: str(model.path), OUTPUT_VARIABLE: str(model.output)}
    lines = []
    with subprocess.Popen(
        command,
        cwd=ROOT,
        env={**env, "PYTHONUNBUFFERED": "1"},
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        errors="replace",
    ) as process:
        assert process.stdout is not None
        for line in process.stdout:
            lines.append(line)
            if not quiet:
                log(f"  {line.rstrip()}")
    if process.returncode:
        name = "make build" if command[0] == "make" else command[2]
        reason = "".join(lines[-5:]).strip() if quiet else "see its output above"
        raise StepError(f"{name} failed with exit code {process.returncode}: {reason}")
    return "".join(lines)


@contextlib.contextmanager
def _record_step(
    step: str,
    model: str,
    inputs: Mapping[str, Artifact],
    outputs: Mapping[str, Artifact],
    **parameters: Any,
) -> Iterator[dict[str, Any]]:
    """Record a step's inputs, outputs, parameters and duration, for the lineage of an archive."""
    began = time.time()
    record: dict[str, Any] = {
        "step": step,
        "model": find_model(model, ROOT).name,
        "began": began,
        "parameters": parameters,
        "inputs": {name: _describe(each) for name, each in inputs.items()},
    }
    state = "failed"
    if RECORDS_VARIABLE in os.environ:
        log(f"── {step}")
    try:
        yield record
        state = "done"
    except (StepError, Exception) as error:
        if RECORDS_VARIABLE in os.environ:  # otherwise Python prints it as the process exits
            log(str(error))
        raise
    finally:
        record |= {"state": state, "seconds": round(time.time() - began, 1)}
        if state == "done":
            record["outputs"] = {name: _describe(each) for name, each in outputs.items()}
            for name, each in outputs.items():
                identity = {"sha256": record["outputs"][name]["sha256"], "step": step}
                each.metadata |= identity | _drop_empty({"model": record["model"], **parameters})
        if file := os.environ.get(RECORDS_VARIABLE):
            with open(file, "a") as lines:
                lines.write(json.dumps(record) + "\n")


def _describe(artifact: Artifact) -> dict[str, str]:
    return {"uri": artifact.uri, "sha256": _hash_path(Path(artifact.path))}


def _drop_empty(parameters: Mapping[str, Any]) -> dict[str, Any]:
    return {name: value for name, value in parameters.items() if value not in ("", {}, None)}


def _hash_path(path: Path) -> str:
    """Return the SHA-256 of a file, or of the names and contents in a folder."""
    total = hashlib.sha256()
    if path.is_file():
        total.update(path.read_bytes())
    else:
        for file in sorted(each for each in path.rglob("*") if each.is_file()):
            inner = hashlib.sha256(file.read_bytes()).hexdigest()
            total.update(f"{file.relative_to(path)}\0{inner}\0".encode())
    return total.hexdigest()
