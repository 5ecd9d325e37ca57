"""What each step does: it runs a program of this project, and writes down what came of what.

Nothing here knows kfp or any library: a step runs in kfp's environment, the programs in their own
(PROGRAMS names its Python). kfp's artifacts come in as objects with a path and metadata.
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
"""Steps whose inputs are all that matters. The others look at what is elsewhere, or change it; so does
`train` where pictures or weights of one's own lie under a name that stays."""
ROOT = Path(__file__).resolve().parent.parent
MODEL, ARCHIVE = ROOT / "build/model", ROOT / "build/model-store/digits.mar"
"""Where the programs that come after look for the model and its archive."""
INSTANCES = "held-out/instances.json"
RECORD = "PIPELINE_RECORD"
"""Names the file to which a run on this machine adds a line for each step. Vertex AI keeps its own."""
MARK = "│ "
"""Begins a step's own lines where it runs here: its user sees these, and the log has kfp's between them."""


class Artifact(Protocol):
    """What kfp hands a step: a place for a file or a folder, and what is known of it."""

    path: str
    uri: str
    metadata: dict[str, Any]


class Stopped(SystemExit):
    """The step failed, and with it the pipeline stops; the text says why."""


def train(
    model: Artifact,
    pictures: Artifact,
    *,
    weights: str,
    data: str,
    options: Mapping[str, int],
    code: str,
) -> None:
    """Train, or take the weights that lie at `weights`; `code` is what the training's sources hash to."""
    source = {"weights": weights} if weights else {"data": data, **options}
    with _recorded("train", {}, {"model": model, "pictures": pictures}, code=code, **source):
        Path(pictures.path).mkdir(parents=True, exist_ok=True)
        if weights:
            program("storage", weights, model.path)
            if not (Path(model.path) / "held-out").is_dir():
                program("pipeline.held_out", model.path, *_options({"data": data}))
            return
        to = {"out": model.path, "report": pictures.path}
        program("model.train", *_options({**to, "data": data, **options}))


def evaluate(
    model: Artifact,
    report: Artifact,
    pictures: Artifact,
    *,
    serving: str,
    data: str,
    rule: Mapping[str, float],
    where: Mapping[str, str],
) -> dict[str, Any]:
    """Compare with what serves now, by `rule` (options of pipeline.evaluate); return what the report says."""
    outputs = {"report": report, "pictures": pictures}
    with _recorded("evaluate", {"model": model}, outputs, serving=serving, **rule):
        folders = {"model": model.path, "out": pictures.path}
        options = {**folders, "serving": serving, **rule, "data": data}
        if serving == "endpoint":
            options |= where
        program("pipeline.evaluate", *_options(options))
        shutil.copyfile(Path(pictures.path) / "report.html", report.path)
        found: dict[str, Any] = json.loads((Path(pictures.path) / "report.json").read_text())
        return found


def gate(passes: bool, message: str) -> None:
    """Let the candidate through, or stop the pipeline."""
    with _recorded("gate", {}, {}, message=message):
        if not passes:
            raise Stopped(f"the pipeline stops here: {message}. What serves now goes on serving.")
        say(message)


def export(model: Artifact, exported: Artifact) -> None:
    """Choose the backend of the network."""
    with _recorded("export", {"model": model}, {"exported": exported}):
        shutil.copytree(model.path, exported.path, dirs_exist_ok=True)
        program("model.export", "--model", exported.path)


def archive(exported: Artifact, packed: Artifact) -> None:
    """Pack the .mar, and lay it and the model where the programs after look for them."""
    with _recorded("archive", {"exported": exported}, {"archive": packed}):
        store = Path(f"{packed.path}.store")
        program("serving.archive", "--weights", exported.path, "--store", str(store))
        shutil.copyfile(store / ARCHIVE.name, packed.path)
        shutil.rmtree(store)
        place(exported, packed)


def build(exported: Artifact, packed: Artifact, *, builder: str, where: Mapping[str, str]) -> str:
    """Build the image, here or with Cloud Build; return what it is called."""
    with _recorded("build", {"archive": packed}, {}, builder=builder) as record:
        place(exported, packed)
        if builder == "cloud":
            program("deploy", "build", *_options(where))
            image = program("pipeline.checks", "image", *_options(where), quiet=True).strip()
            record["image"] = image
            return image
        # By what is in it: the same archive again is the same image again.
        record["image"] = tag = f"pipeline-digits:{_sha256(packed)[:12]}"
        _run(["make", "build", f"IMAGE={tag}", f"DOCKER={_docker()}"])
        return tag


def contract(
    exported: Artifact, packed: Artifact, image: str, *, builder: str, where: Mapping[str, str]
) -> None:
    """Put the image to Vertex AI's container contract.

    Where there is no Docker engine Cloud Build has done it, before it pushed; that is looked up there.
    """
    with _recorded("contract", {}, {}, image=image):
        place(exported, packed)
        if builder == "cloud":
            program("pipeline.checks", "tested", *_options(where))
            return
        instances = str(Path(exported.path) / INSTANCES)
        program("contract", image, "--docker", _docker(), "--instances", instances)


def upload(exported: Artifact, packed: Artifact, *, where: Mapping[str, str]) -> str:
    """Push the image if it is not there, register it as a version of the model; return its number."""
    with _recorded("upload", {"archive": packed}, {}, **where) as record:
        place(exported, packed)
        said = program("deploy", "upload", *_options(where))
        record["version"] = version = said.strip().splitlines()[-1]
        return version


def canary(
    version: str, *, where: Mapping[str, str], traffic: int, limits: Mapping[str, str]
) -> None:
    """Give the version a part of the traffic, and watch it; where it is the first, all of it."""
    with _recorded("canary", {}, {}, version=version, traffic=traffic, **limits):
        if program("pipeline.checks", "serves", *_options(where), quiet=True).strip() != "yes":
            say(f"nothing serves yet: version {version} is the first, and gets everything")
            program("deploy", "deploy", "--version", version, *_options(where))
            return
        options = {"version": version, "traffic": traffic, **where}
        if limits.get("watch"):
            options |= limits
        program("deploy", "canary", *_options(options))


def promote(version: str, *, where: Mapping[str, str]) -> None:
    """Let it serve everything."""
    with _recorded("promote", {}, {}, version=version):
        program("deploy", "promote", *_options(where))


def say(line: str) -> None:
    """Print a line of a step's own, paths in the project's folder as seen from there."""
    print(f"{MARK if RECORD in os.environ else ''}{line.replace(f'{ROOT}/', '')}", flush=True)


def program(module: str, *arguments: str, quiet: bool = False) -> str:
    """Run one of the project's programs, show what it prints and return that; raise Stopped."""
    python = os.environ.get("PROGRAMS") or str(ROOT / ".venv/bin/python")
    return _run([python, "-m", module, *arguments], quiet=quiet)


def place(exported: Artifact, packed: Artifact) -> None:
    """Lay model and archive into build/, in the order in which make takes each for older than the next."""
    if not ARCHIVE.is_file() or _sha256(packed) != _digest(ARCHIVE):
        MODEL.parent.mkdir(exist_ok=True)
        new = MODEL.with_name("model.new")
        shutil.rmtree(new, ignore_errors=True)
        source = Path(exported.path)
        last = [source / "weights.safetensors", source / "backend.json"]
        files = [file for file in source.rglob("*") if file.is_file() and file not in last]
        for file in [*files, *(file for file in last if file.is_file())]:
            target = new / file.relative_to(source)
            target.parent.mkdir(parents=True, exist_ok=True)
            shutil.copyfile(file, target)
        shutil.rmtree(MODEL, ignore_errors=True)
        new.rename(MODEL)
        ARCHIVE.parent.mkdir(exist_ok=True)
        shutil.copyfile(packed.path, ARCHIVE.with_suffix(".part"))
        ARCHIVE.with_suffix(".part").replace(ARCHIVE)
    for file in (MODEL / "weights.safetensors", *MODEL.glob("*.json"), ARCHIVE):
        file.touch()


def _options(values: Mapping[str, Any]) -> list[str]:
    """Return names and values as a command line's options; an empty text is left to the program."""
    given = {name.replace("_", "-"): str(value) for name, value in values.items() if value != ""}
    return [word for name, value in given.items() for word in (f"--{name}", value)]


def _docker() -> str:
    return os.environ.get("DOCKER", "docker")


def _run(command: list[str], *, quiet: bool = False) -> str:
    """Run a program in the project's folder; raise Stopped where it fails."""
    if not quiet:
        say(f"$ {' '.join([Path(command[0]).name, *command[1:]])}")
    # make hands its own options on to every make below it; these are for the one above.
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
                say(f"  {line.rstrip()}")
    if process.returncode:
        words = " ".join(command[1:4] if command[0] != "make" else command[:2])
        said = "".join(lines[-5:]).strip() if quiet else "its reason stands above"
        raise Stopped(f"{words} ended with exit code {process.returncode}: {said}")
    return "".join(lines)


@contextlib.contextmanager
def _recorded(
    step: str, inputs: Mapping[str, Artifact], outputs: Mapping[str, Artifact], **parameters: Any
) -> Iterator[dict[str, Any]]:
    """Write down what a step made of what, for whoever asks later where an archive comes from."""
    began = time.time()
    record: dict[str, Any] = {
        "step": step,
        "began": began,
        "parameters": parameters,
        "inputs": {name: _known(each) for name, each in inputs.items()},
    }
    state = "failed"
    if RECORD in os.environ:
        say(f"── {step}")
    try:
        yield record
        state = "done"
    except Stopped as stopped:
        if RECORD in os.environ:  # elsewhere Python says it when it ends
            say(str(stopped))
        raise
    finally:
        record |= {"state": state, "seconds": round(time.time() - began, 1)}
        if state == "done":
            for each in outputs.values():
                each.metadata |= {"sha256": _sha256(each), "step": step, **_flat(parameters)}
            record["outputs"] = {name: _known(each) for name, each in outputs.items()}
        if file := os.environ.get(RECORD):
            with open(file, "a") as lines:
                lines.write(json.dumps(record) + "\n")


def _known(artifact: Artifact) -> dict[str, str]:
    return {"uri": artifact.uri, "sha256": _sha256(artifact)}


def _flat(parameters: Mapping[str, Any]) -> dict[str, Any]:
    return {name: value for name, value in parameters.items() if value not in ("", {}, None)}


def _sha256(artifact: Artifact) -> str:
    return _digest(Path(artifact.path))


def _digest(path: Path) -> str:
    """Return the SHA-256 of a file, or of a folder's names and files."""
    total = hashlib.sha256()
    if path.is_file():
        total.update(path.read_bytes())
    else:
        for file in sorted(each for each in path.rglob("*") if each.is_file()):
            inner = hashlib.sha256(file.read_bytes()).hexdigest()
            total.update(f"{file.relative_to(path)}\0{inner}\0".encode())
    return total.hexdigest()
