"""Build a .mar of the handler, a model and its weights, which any TorchServe 0.12 can serve.

The archive contains what is needed beside torch: the packages `handler` and `task`, and the files of the model's
folder. It is written only if the model answers its requests.json as expected.
"""

import argparse
import json
import os
import shutil
import subprocess
import sys
import tempfile
import zipfile
from collections.abc import Iterable, Iterator
from pathlib import Path

from project import cli, weights
from project.environment import copy_packages, find_python
from project.locks import hold_lock
from project.model_folder import OUTPUT_VARIABLE, REQUIREMENTS, Model, add_model_option, find_model
from project.weights import make_weights
from serving import artifact
from serving.errors import ArchiveError
from serving.selection import name_golden_request, name_models
from serving.stock import manifest
from serving.unpacking import unpack
from serving.verification import (
    GOLDEN_REQUEST,
    PACKAGES,
    REQUESTS,
    TIMEOUT_S,
    verify,
)

ROOT = Path(__file__).resolve().parent.parent
HANDLER_FILE = ROOT / "handler" / "vertex_handler.py"
BACKEND, DEFAULT_BACKEND = "backend.json", "eager"
NOT_PACKED = (
    *("train", "train.py", "fetch", "fetch.py", "tests", "held-out", "held-out.json", "score.py"),
    *("deploy.toml", "README.md"),
)
"""Files and folders of a model that a server does not need. Hidden ones are not packed either."""
CACHES = ("__pycache__",)


def build(model: Model) -> bool:
    """Write the model's archive, and the files beside it, unless they are up to date; return whether it did.

    Raises ArchiveError and ProjectError.
    """
    with hold_lock(model.build / "archive.lock"):
        if weights.are_missing(model):
            make_weights(model, [])
        record = model.build / "archive.json"
        inputs = json.dumps(_list_inputs(model))
        outputs = (*model.archives, model.packages, model.distributions, record)
        if all(path.exists() for path in outputs) and record.read_text() == inputs:
            return False
        record.unlink(missing_ok=True)
        if model.folder_archives:
            _copy_archives(model)
        elif model.is_archive:
            _copy_archive(model)
            copy_packages(model)
            model.distributions.write_text("{}")
        else:
            _build_archive(model)
        if not model.folder_archives:
            _extract_requests(model)
        record.write_text(json.dumps(_list_inputs(model)))
        return True


def _build_archive(model: Model, *, may_measure_again: bool = True) -> None:
    python = find_python(model)
    measuring_error = _choose_backend(model, python)
    with tempfile.TemporaryDirectory(prefix="archive-") as scratch:
        contents = Path(scratch) / "contents"
        if left_out := collect(model, contents):
            print(f"not packed: {', '.join(left_out)}")
        try:
            notes = verify(contents, python, model.distributions)
        except ArchiveError:
            # The backend may have been chosen before model.py and requests.json were changed.
            if not (may_measure_again and _forget_backend(model)):
                raise
            _build_archive(model, may_measure_again=False)
            return
        if notes:
            print(notes)
        if measuring_error:
            raise ArchiveError(measuring_error)
        packed = _pack(model.name, contents, Path(scratch))
        _write_archive(packed, model.archive, zipfile.ZIP_DEFLATED)


def _forget_backend(model: Model) -> bool:
    """Remove the measurements of backends; return whether another than the default was chosen."""
    chosen = model.build / BACKEND
    if not chosen.is_file() or json.loads(chosen.read_text())["backend"] == DEFAULT_BACKEND:
        return False
    chosen.unlink()
    return True


def _copy_archives(model: Model) -> None:
    """Copy the archives of a folder, each under its own name, and join the requirements of their packages."""
    for old in model.build.glob("*.mar"):
        old.unlink()
    shutil.rmtree(model.packages, ignore_errors=True)
    requirements: list[str] = []
    for name, file in name_models(path.name for path in model.folder_archives).items():
        with tempfile.TemporaryDirectory(dir=model.build, prefix="archive-") as scratch:
            part = Model(path=model.path / file, name=name, output=Path(scratch))
            part.build.mkdir()
            _copy_archive(part)
            shutil.copytree(copy_packages(part), model.packages, dirs_exist_ok=True)
            os.replace(part.archive, model.build / file)
            requirements += (part.packages / REQUIREMENTS).read_text().splitlines()
    lines = dict.fromkeys(requirements)
    (model.packages / REQUIREMENTS).write_text("".join(f"{line}\n" for line in lines))
    model.distributions.write_text("{}")


def _copy_archive(model: Model) -> None:
    """Copy a ready archive under the model's name; a stock archive is adapted to be served here."""
    if model.archive.exists() and model.archive.samefile(model.path):
        return
    with tempfile.TemporaryDirectory(prefix="archive-") as scratch:
        contents = Path(scratch) / model.path.name
        contents.mkdir()
        if model.path.is_dir():
            shutil.copytree(model.path, contents, dirs_exist_ok=True)
        else:
            unpack(model.path, contents)
        manifest.adapt(contents, model.name)
        for beside in _list_golden_requests(model):
            shutil.copyfile(beside, contents / manifest.GOLDEN_REQUEST)
        _write_archive(contents, model.archive)


def _list_golden_requests(model: Model) -> list[Path]:
    """Return the golden requests beside a ready archive, that of its name last."""
    names = (GOLDEN_REQUEST, name_golden_request(model.path.stem))
    return list(filter(Path.is_file, map(model.path.with_name, names)))


def _write_archive(contents: Path, archive: Path, compression: int = zipfile.ZIP_STORED) -> None:
    """Replace an archive in one step, so that a server never reads an incomplete one."""
    part = archive.with_suffix(".part")
    with zipfile.ZipFile(part, "w", compression, strict_timestamps=False) as mar:
        for file in sorted(filter(Path.is_file, contents.rglob("*"))):
            mar.write(file, file.relative_to(contents))
    os.replace(part, archive)


def _choose_backend(model: Model, python: Path) -> str:
    """Measure the model unless that was done with the same weights; return the error, or ""."""
    if (model.weights / BACKEND).is_file():
        return ""
    record = model.build / "backend-inputs.json"
    weights_files = [
        source.resolve()
        for name, source in _list_files(model)
        if source.suffix != ".py" and name not in (REQUESTS, REQUIREMENTS, BACKEND)
    ]
    inputs = json.dumps(_stat(model, [*weights_files, *(ROOT / "task" / "backends").glob("*.py")]))
    if record.is_file() and record.read_text() == inputs and (model.build / BACKEND).is_file():
        return ""
    command = [str(python), "-m", "authoring.export", "--model", str(model.path.resolve())]
    environment = {**os.environ, OUTPUT_VARIABLE: str(model.output.resolve())}
    try:
        done = subprocess.run(
            command,
            cwd=ROOT,
            env=environment,
            capture_output=True,
            text=True,
            timeout=TIMEOUT_S,
            check=False,
        )
    except subprocess.TimeoutExpired:
        return f"the model was not measured within {TIMEOUT_S} s"
    if done.returncode != 0:
        return f"the model cannot be measured: {done.stderr.strip().rpartition(chr(10))[2]}"
    print(done.stdout, end="")
    record.write_text(inputs)
    return ""


def collect(model: Model, contents: Path) -> list[str]:
    """Copy what the archive of a model folder holds into a new folder; return what is left out.

    Raises ArchiveError if the folder uses a name of the archive.
    """
    contents.mkdir()
    for package in PACKAGES:
        if (model.path / package).exists():
            used = "the name is used by a package of the archive"
            raise ArchiveError(f"{model.path / package}: {used}; rename it")
    entries = {
        entry.name
        for folder in (model.path, model.weights)
        if folder.is_dir()
        for entry in folder.iterdir()
    }
    left_out = sorted(filter(_is_left_out, entries - {*CACHES, weights.RECORD}))
    for name, source in _list_files(model):
        target = contents / name
        target.parent.mkdir(parents=True, exist_ok=True)
        shutil.copyfile(source, target)
    ignored = shutil.ignore_patterns(*CACHES, HANDLER_FILE.name)
    for package in ("handler", "task"):
        shutil.copytree(ROOT / package, contents / package, ignore=ignored)
    return left_out


def _list_files(model: Model) -> Iterator[tuple[str, Path]]:
    """Yield the name in the archive and the path of each file of the model; later ones replace earlier ones."""
    for folder in (model.path, model.weights):
        for path in sorted(folder.rglob("*")):
            name = path.relative_to(folder)
            is_cache = any(part in CACHES for part in name.parts)
            if path.is_file() and not is_cache and not _is_left_out(name.parts[0]):
                yield str(name), path
    backend = model.build / BACKEND
    if backend.is_file() and not (model.weights / BACKEND).is_file():
        yield BACKEND, backend


def _is_left_out(name: str) -> bool:
    return name in NOT_PACKED or name.startswith(".")


def _list_inputs(model: Model) -> list[list[str | int]]:
    """Return what identifies the contents of an archive: the path, size and time of every file."""
    if model.folder_archives:
        files = [archive.resolve() for archive in model.folder_archives]
        beside = [model.path / REQUIREMENTS, *sorted(model.path.glob(f"*{GOLDEN_REQUEST}"))]
        files += [file.resolve() for file in beside if file.is_file()]
        files += [Path(__file__), Path(manifest.__file__), manifest.HANDLER_FILE, *manifest.MODULES]
    elif model.is_archive:
        path = model.path.resolve()
        files = sorted(filter(Path.is_file, path.rglob("*"))) if path.is_dir() else [path]
        beside = [model.path.with_name(name) for name in (REQUIREMENTS, GOLDEN_REQUEST)]
        files += [file.resolve() for file in beside if file.is_file()]
        files += [Path(__file__), Path(manifest.__file__), manifest.HANDLER_FILE, *manifest.MODULES]
    else:
        files = [source.resolve() for _, source in _list_files(model)]
        files += [Path(__file__), *(ROOT / "handler").rglob("*.py"), *(ROOT / "task").rglob("*.py")]
    return _stat(model, files)


def _stat(model: Model, files: Iterable[Path]) -> list[list[str | int]]:
    """Return path, size and time of each file, with paths relative to the model's folder in build/.

    So what is built in one folder and copied to another is up to date there.
    """
    build = model.build.resolve()
    return [
        [
            str(file.relative_to(build) if file.is_relative_to(build) else file),
            file.stat().st_size,
            file.stat().st_mtime_ns,
        ]
        for file in files
    ]


def _pack(name: str, contents: Path, target: Path) -> Path:
    """Return the folder of the unpacked archive, with this project's mark in its manifest."""
    archiver = [
        *(sys.executable, "-m", "model_archiver.model_packaging", "--force"),
        *(f"--model-name={name}", "--version=1.0", f"--handler={HANDLER_FILE}"),
        *(f"--extra-files={contents}", f"--export-path={target}", "--archive-format=no-archive"),
    ]
    done = subprocess.run(archiver, capture_output=True, text=True, timeout=300, check=False)
    if done.returncode != 0:
        raise ArchiveError(f"torch-model-archiver failed:\n{done.stdout}{done.stderr}")
    manifest.mark(target / name)
    return target / name


def _extract_requests(model: Model) -> None:
    """Copy the requests of the archive beside it. One of version 0.1 has only a golden request, a stock one none."""
    request = artifact.read_golden_request(model.archive)
    is_project = manifest.read_manifest(model.archive).is_project
    examples = manifest.read_bytes(model.archive, REQUESTS) if is_project else None
    if request and not examples:
        instances = json.loads(request)["instances"]
        examples = json.dumps([{"instance": instance} for instance in instances]).encode()
    rows = json.loads(examples) if examples else []
    lines = "".join(f"{json.dumps(row['instance'])}\n" for row in rows).encode()
    contents = ((model.request, request), (model.requests, examples), (model.instances, lines))
    for target, content in contents:
        target.unlink(missing_ok=True)
        if content:
            target.write_bytes(content)


def main() -> None:
    """Build the archive; exit with the error if that fails."""
    parser = argparse.ArgumentParser(
        prog="python -m serving.archive", description=__doc__.splitlines()[0]
    )
    add_model_option(parser)
    args = parser.parse_args()
    cli.run("serving.archive", lambda: _build_and_report(find_model(args.model)), ArchiveError)


def _build_and_report(model: Model) -> None:
    is_new = build(model)
    is_ready = model.is_archive or model.folder_archives
    packed = "packed" if is_ready else "the requests get the expected predictions"
    state = packed if is_new else "up to date"
    for archive in model.archives:
        print(f"{archive}  {archive.stat().st_size / 1024:.0f} KiB; {state}")


if __name__ == "__main__":
    main()
