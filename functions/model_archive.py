"""The function of a model: the code of its archive is deployed, its other files are fetched from a bucket."""

import json
import re
import sys
import zipfile
from collections.abc import Iterator
from pathlib import Path

from deploy.errors import UserError
from functions.registry import COMMON, ROOT, Function
from project.model_folder import ENTRY, Model

FOLDER = ROOT / "functions" / "model"
SHARED = (*COMMON, "storage", "task", "handler")
EXCLUDED = ("handler/vertex_handler.py",)
CODE, FILES = "archive", "files.json"
"""Names in the source of a function that functions/model/main.py reads."""
REQUIREMENTS = "requirements.txt"
NOT_USED = re.compile(
    r"(MAR-INF|handler|task)/.*|vertex_handler\.py|golden-request\.json|schema\.json"
    r"|model-config\.yaml|requirements\.txt|.*\.whl"
)
"""Entries of an archive that only TorchServe uses, or that have another place in the source of a function."""
OWN_MODULES = ("functions", "main", "storage")
"""Modules of a function, which a model's modules of the same name would not replace."""
SIZES_GIB = {2: "1", 4: "1", 8: "2", 16: "4", 32: "8"}
"""Memory of an instance, and the least CPUs that Cloud Run gives it with."""
BASE_GIB = 1.5
"""Memory of Python, torch and four of the largest requests."""
COPIES = 3
"""Copies of the model's files in memory while it is loaded: in /tmp, as they are read, and in the model."""


def create_function(model: Model) -> Function:
    """Return the function of a model; raise UserError if its archive cannot be one."""
    entries = _list_entries(model)
    names = [entry.filename for entry in entries]
    make = f"make archive {model.selection}"
    if ENTRY not in names:
        raise UserError(f"{model.archive} has no {ENTRY}, so it cannot be a function", make)
    for name in OWN_MODULES:
        if f"{name}.py" in names or any(each.startswith(f"{name}/") for each in names):
            used = f"{model.archive}: the name {name} is used by a module of the function"
            raise UserError(used, f"rename it in {model.path}")
    files = [entry for entry in entries if not _is_code(entry.filename)]
    memory_gib, cpu = choose_size(sum(entry.file_size for entry in files))
    return Function(
        name=model.name,
        folder=FOLDER,
        entry_point="predict",
        memory=f"{memory_gib}Gi",
        cpu=cpu,
        concurrency=4,
        shared=SHARED,
        excluded=EXCLUDED,
        files=tuple(sorted(entry.filename for entry in files)),
        files_folder=model.build / "function",
        build_command=make,
        request=f"@{model.request}",
        model=model,
    )


def choose_size(files_bytes: int) -> tuple[int, str]:
    """Return the memory in GiB and the CPUs for a model with files of this size; raise UserError if it is too large."""
    needed_gib = BASE_GIB + COPIES * files_bytes / (1 << 30)
    for memory_gib, cpu in SIZES_GIB.items():
        if needed_gib <= memory_gib:
            return memory_gib, cpu
    raise UserError(
        f"the model's files of {files_bytes / (1 << 30):.1f} GiB need {needed_gib:.0f} GiB of memory; "
        f"a function has at most {max(SIZES_GIB)} GiB",
        "deploy an endpoint: make deploy-endpoint",
    )


def extract_files(function: Function, model: Model) -> None:
    """Copy the model's files that are not code to the function's folder, unless they are newer than the archive."""
    packed = model.archive.stat().st_mtime
    with zipfile.ZipFile(model.archive) as archive:
        for name in function.files:
            target = function.files_folder / name
            if not target.is_file() or target.stat().st_mtime < packed:
                target.unlink(
                    missing_ok=True
                )  # a running function keeps the file that it has opened
                archive.extract(name, function.files_folder)


def generate_sources(function: Function, model: Model) -> Iterator[tuple[Path, bytes]]:
    """Yield the path and content of each file that the source of a model's function has beside main.py."""
    yield Path(FILES), json.dumps(function.files, indent=1).encode()
    own = (model.packages / REQUIREMENTS).read_text()
    if "--hash" in own:
        reason = "the packages of the function itself have none"
        print(f"{REQUIREMENTS}: its hashes are removed: {reason}", file=sys.stderr)
    yield Path(REQUIREMENTS), merge_requirements((FOLDER / REQUIREMENTS).read_text(), own).encode()
    for wheel in sorted(model.packages.rglob("*.whl")):
        yield wheel.relative_to(model.packages), wheel.read_bytes()
    with zipfile.ZipFile(model.archive) as archive:
        for entry in _list_entries(model):
            if _is_code(entry.filename):
                yield Path(CODE, entry.filename), archive.read(entry)


def merge_requirements(base: str, own: str) -> str:
    """Return requirements with the lines of both; a package that both name has the version of `own`.

    torch has the version of `base`, as in the image. Hashes are removed: pip would require them for all.
    """
    lines = re.sub(r"\\\n\s*", " ", own).splitlines()
    lines = [re.sub(r"\s+--hash[= ]\S+", "", line) for line in lines]
    named = {_get_package(line) for line in lines} - {None, "torch"}
    kept = [line for line in base.splitlines() if _get_package(line) not in named]
    return "\n".join([*kept, *lines]) + "\n"


def _get_package(line: str) -> str | None:
    """Return the normalized name of the package in a line: NAME==1.0, or the path of NAME-1.0-….whl."""
    file = re.match(r"\S+\.whl\b", line)
    match = re.match(r"[A-Za-z0-9][A-Za-z0-9._-]*", line)
    name = Path(file[0]).name.partition("-")[0] if file else match and match[0]
    return re.sub("[-_.]+", "-", name).lower() if name else None


def _list_entries(model: Model) -> list[zipfile.ZipInfo]:
    """Return the files of the archive that a function uses; raise UserError if it cannot be read."""
    try:
        with zipfile.ZipFile(model.archive) as archive:
            entries = [each for each in archive.infolist() if not each.is_dir()]
    except (OSError, zipfile.BadZipFile) as error:
        reason = f"{model.archive} cannot be read: {getattr(error, 'strerror', None) or error}"
        raise UserError(reason, f"make archive {model.selection}") from None
    if outside := [each.filename for each in entries if ".." in Path(each.filename).parts]:
        raise UserError(f"{model.archive}: {outside[0]} is outside of the archive", "pack it again")
    return [each for each in entries if not NOT_USED.fullmatch(each.filename)]


def _is_code(name: str) -> bool:
    return name.endswith(".py")
