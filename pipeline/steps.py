"""The steps of the pipeline: each runs programs of this project and records its inputs and outputs.

This module uses only the standard library: a step runs in kfp's environment, and the programs run in their own, whose
Python the variable PIPELINE_PYTHON names. kfp's artifacts are passed in as objects with a path and metadata.
"""

import contextlib
import hashlib
import json
import os
import shutil
import subprocess
import time
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any, Protocol

from pipeline.errors import StepError

STEPS = (
    "train",
    "evaluate",
    "gate",
    "export",
    "archive",
    "build",
    "contract",
    "upload",
    "canary",
    "promote",
)
CACHED = ("train", "export")
"""Steps whose outputs depend only on their inputs. The others read or change external state; so does `train` with
the user's own data or weights, which can change under the same name."""
ROOT = Path(__file__).resolve().parent.parent
MODEL, ARCHIVE = ROOT / "build/model", ROOT / "build/model-store/digits.mar"
"""Where the later programs read the model and its archive."""
INSTANCES = "held-out/instances.json"
RECORDS_VARIABLE = "PIPELINE_RECORD"
"""Names the file to which each step of a local run appends a record. On Vertex AI it is not set."""
STEP_LINE_PREFIX = "│ "
"""Marks the lines that the steps log in a local run: they are shown to the user, kfp's lines only go to the log."""


class Artifact(Protocol):
    """A kfp artifact: the location of a file or a folder, and its metadata."""

    path: str
    uri: str
    metadata: dict[str, Any]


def train(
    model: Artifact,
    training_report: Artifact,
    *,
    weights: str,
    data: str,
    options: Mapping[str, int],
    source_hash: str,
) -> None:
    """Train, or fetch the trained weights at `weights`; `source_hash` is that of the training's sources."""
    source = {"weights": weights} if weights else {"data": data, **options}
    outputs = {"model": model, "training_report": training_report}
    with _record_step("train", {}, outputs, source_hash=source_hash, **source):
        Path(training_report.path).mkdir(parents=True, exist_ok=True)
        if weights:
            run_program("storage", weights, model.path)
            if not (Path(model.path) / "held-out").is_dir():
                run_program("pipeline.held_out", model.path, *_to_options({"data": data}))
            return
        folders = {"out": model.path, "report": training_report.path}
        run_program("model.train", *_to_options({**folders, "data": data, **options}))


def evaluate(
    model: Artifact,
    report: Artifact,
    report_files: Artifact,
    *,
    serving: str,
    data: str,
    limits: Mapping[str, float],
    target: Mapping[str, str],
) -> dict[str, Any]:
    """Compare with the serving model within `limits` (options of pipeline.evaluate); return report.json's content."""
    outputs = {"report": report, "report_files": report_files}
    with _record_step("evaluate", {"model": model}, outputs, serving=serving, **limits):
        folders = {"model": model.path, "out": report_files.path}
        options = {**folders, "serving": serving, **limits, "data": data}
        if serving == "endpoint":
            options |= target
        run_program("pipeline.evaluate", *_to_options(options))
        shutil.copyfile(Path(report_files.path) / "report.html", report.path)
        result: dict[str, Any] = json.loads((Path(report_files.path) / "report.json").read_text())
        return result


def gate(passed: bool, message: str) -> None:
    """Stop the pipeline if the candidate did not pass its evaluation."""
    with _record_step("gate", {}, {}, message=message):
        if not passed:
            raise StepError(f"candidate rejected: {message}. The serving model stays in place.")
        log(message)


def export(model: Artifact, exported_model: Artifact) -> None:
    """Choose the fastest equivalent backend of the network."""
    with _record_step("export", {"model": model}, {"exported_model": exported_model}):
        shutil.copytree(model.path, exported_model.path, dirs_exist_ok=True)
        run_program("model.export", "--model", exported_model.path)


def archive(exported_model: Artifact, archive_file: Artifact) -> None:
    """Create the .mar, and install it and the model in build/."""
    inputs, outputs = {"exported_model": exported_model}, {"archive": archive_file}
    with _record_step("archive", inputs, outputs):
        store = Path(f"{archive_file.path}.store")
        run_program("serving.archive", "--weights", exported_model.path, "--store", str(store))
        shutil.copyfile(store / ARCHIVE.name, archive_file.path)
        shutil.rmtree(store)
        install(exported_model, archive_file)


def build(
    exported_model: Artifact, archive_file: Artifact, *, builder: str, target: Mapping[str, str]
) -> str:
    """Build the image with the local Docker engine or Cloud Build; return its name."""
    with _record_step("build", {"archive": archive_file}, {}, builder=builder) as record:
        install(exported_model, archive_file)
        if builder == "cloud":
            run_program("deploy", "build", *_to_options(target))
            found = run_program("pipeline.checks", "image", *_to_options(target), quiet=True)
            record["image"] = image = found.strip()
            return image
        # The tag comes from the content: the same archive results in the same image.
        record["image"] = tag = f"pipeline-digits:{_hash_artifact(archive_file)[:12]}"
        _run(["make", "build", f"IMAGE={tag}", f"DOCKER={_docker()}"])
        return tag


def contract(
    exported_model: Artifact,
    archive_file: Artifact,
    image: str,
    *,
    builder: str,
    target: Mapping[str, str],
) -> None:
    """Test the image against Vertex AI's container contract.

    Cloud Build, which is used if there is no Docker engine, ran the tests before it pushed the image; then this step
    only checks that they passed.
    """
    with _record_step("contract", {}, {}, image=image):
        install(exported_model, archive_file)
        if builder == "cloud":
            run_program("pipeline.checks", "contract", *_to_options(target))
            return
        instances = str(Path(exported_model.path) / INSTANCES)
        run_program("contract", image, "--docker", _docker(), "--instances", instances)


def upload(exported_model: Artifact, archive_file: Artifact, *, target: Mapping[str, str]) -> str:
    """Push the image if it is missing in the registry, and upload it as a model version; return its number."""
    with _record_step("upload", {"archive": archive_file}, {}, **target) as record:
        install(exported_model, archive_file)
        output = run_program("deploy", "upload", *_to_options(target))
        record["version"] = version = output.strip().splitlines()[-1]
        return version


def canary(
    version: str, *, target: Mapping[str, str], traffic: int, limits: Mapping[str, str]
) -> None:
    """Route part of the traffic to the version and watch it; route all traffic to it if it is the first."""
    with _record_step("canary", {}, {}, version=version, traffic=traffic, **limits):
        words = _to_options(target)
        if run_program("pipeline.checks", "has-traffic", *words, quiet=True).strip() != "yes":
            log(f"no model is serving yet: version {version} is the first and gets all traffic")
            run_program("deploy", "deploy", "--version", version, *_to_options(target))
            return
        options = {"version": version, "traffic": traffic, **target}
        if limits.get("watch"):
            options |= limits
        run_program("deploy", "canary", *_to_options(options))


def promote(version: str, *, target: Mapping[str, str]) -> None:
    """Route all traffic to the version."""
    with _record_step("promote", {}, {}, version=version):
        run_program("deploy", "promote", *_to_options(target))


def log(line: str) -> None:
    """Print a line, with paths relative to the project's folder."""
    prefix = STEP_LINE_PREFIX if RECORDS_VARIABLE in os.environ else ""
    print(f"{prefix}{line.replace(f'{ROOT}/', '')}", flush=True)


def run_program(module: str, *arguments: str, quiet: bool = False) -> str:
    """Run a program of the project, log its output unless `quiet`, and return it; raise StepError if it fails."""
    return _run([_find_python(), "-m", module, *arguments], quiet=quiet)


def _find_python() -> str:
    if python := os.environ.get("PIPELINE_PYTHON"):
        return python
    if python := os.environ.get("PROGRAMS"):
        log("warning: the variable PROGRAMS is deprecated: use PIPELINE_PYTHON")
        return python
    return str(ROOT / ".venv/bin/python")


def install(exported_model: Artifact, archive_file: Artifact) -> None:
    """Copy model and archive to build/ unless they are there, with modification times in the order of make's rules."""
    if not ARCHIVE.is_file() or _hash_artifact(archive_file) != _hash_path(ARCHIVE):
        MODEL.parent.mkdir(exist_ok=True)
        new = MODEL.with_name("model.new")
        shutil.rmtree(new, ignore_errors=True)
        source = Path(exported_model.path)
        last = [source / "weights.safetensors", source / "backend.json"]
        files = [file for file in source.rglob("*") if file.is_file() and file not in last]
        for file in [*files, *(file for file in last if file.is_file())]:
            target = new / file.relative_to(source)
            target.parent.mkdir(parents=True, exist_ok=True)
            shutil.copyfile(file, target)
        shutil.rmtree(MODEL, ignore_errors=True)
        new.rename(MODEL)
        ARCHIVE.parent.mkdir(exist_ok=True)
        shutil.copyfile(archive_file.path, ARCHIVE.with_suffix(".part"))
        ARCHIVE.with_suffix(".part").replace(ARCHIVE)
    for file in (MODEL / "weights.safetensors", *MODEL.glob("*.json"), ARCHIVE):
        file.touch()


def _to_options(values: Mapping[str, Any]) -> list[str]:
    """Return names and values as command-line options; empty strings are left out."""
    options = {name.replace("_", "-"): str(value) for name, value in values.items() if value != ""}
    return [argument for name, value in options.items() for argument in (f"--{name}", value)]


def _docker() -> str:
    return os.environ.get("DOCKER", "docker")


def _run(command: list[str], *, quiet: bool = False) -> str:
    """Run a program in the project's folder and return its output; raise StepError if it fails."""
    if not quiet:
        log(f"$ {' '.join([Path(command[0]).name, *command[1:]])}")
    # make passes its own options to every make that it starts; these are not meant for ours.
    env = {name: value for name, value in os.environ.items() if name not in ("MAKEFLAGS", "MFLAGS")}
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
        name = " ".join(command[1:4] if command[0] != "make" else command[:2])
        reason = "".join(lines[-5:]).strip() if quiet else "see its output above"
        raise StepError(f"{name} failed with exit code {process.returncode}: {reason}")
    return "".join(lines)


@contextlib.contextmanager
def _record_step(
    step: str, inputs: Mapping[str, Artifact], outputs: Mapping[str, Artifact], **parameters: Any
) -> Iterator[dict[str, Any]]:
    """Record a step's inputs, outputs, parameters and duration, for the lineage of an archive."""
    began = time.time()
    record: dict[str, Any] = {
        "step": step,
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
    except StepError as error:
        if RECORDS_VARIABLE in os.environ:  # otherwise Python prints it as the process exits
            log(str(error))
        raise
    finally:
        record |= {"state": state, "seconds": round(time.time() - began, 1)}
        if state == "done":
            for each in outputs.values():
                identity = {"sha256": _hash_artifact(each), "step": step}
                each.metadata |= identity | _drop_empty(parameters)
            record["outputs"] = {name: _describe(each) for name, each in outputs.items()}
        if file := os.environ.get(RECORDS_VARIABLE):
            with open(file, "a") as lines:
                lines.write(json.dumps(record) + "\n")


def _describe(artifact: Artifact) -> dict[str, str]:
    return {"uri": artifact.uri, "sha256": _hash_artifact(artifact)}


def _drop_empty(parameters: Mapping[str, Any]) -> dict[str, Any]:
    return {name: value for name, value in parameters.items() if value not in ("", {}, None)}


def _hash_artifact(artifact: Artifact) -> str:
    return _hash_path(Path(artifact.path))


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
