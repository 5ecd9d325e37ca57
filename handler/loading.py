"""Load a model from its folder, or from an archive of it, and check it."""

import importlib
import json
import logging
import sys
from pathlib import Path
from typing import Any

import torch

from handler import golden
from handler.collation import find_max_samples
from handler.pass_size import CudaMemory, limit_passes, read_workers
from task.adapter import AdaptedTask, adapt
from task.backends import read_times
from task.backends.selection import lock_folder, restrict_selection
from task.requests_file import FILE_NAME, read_examples

ENTRY = "model"
"""The module in the folder that defines `load`."""

KEPT = ("handler", "task", "__main__")
"""Packages that are never imported again; in an archive they are beside model.py."""

_loaded: list[Path] = []
"""The folder whose modules are imported, if any."""

log = logging.getLogger(__name__)


class LoadError(Exception):
    """The folder is not one of a model. The text says what is missing."""


def load_model(folder: Path, device: torch.device) -> AdaptedTask:
    """Import model.py of a folder, call its `load`, and adapt the task; raise what `load` raises.

    The folder comes first on sys.path, so that model.py can import the modules beside it. The modules of a
    folder that was loaded before are imported again.
    """
    folder = folder.resolve()
    examples = read_examples(folder) if (folder / FILE_NAME).exists() else []
    load = getattr(_import_entry(folder), "load", None)
    if not callable(load):
        raise LoadError(f"{folder / ENTRY}.py: expected a function load(folder, device)")
    if device.type == "cuda":  # also for what follows the current device: streams, pinned memory
        device = torch.device("cuda", device.index or 0)
        torch.cuda.set_device(device)
    task = adapt(load(folder, device), device, examples)
    if not task.has_accelerator:  # the times are those of a CPU
        task.max_samples = find_max_samples(read_times(folder))
    return task


def load_and_check(folder: Path, device: torch.device, *, each_alone: bool = False) -> AdaptedTask:
    """Load a model as `load_model` does, and run its requests as `golden.check` does.

    If the predictions on a GPU are not the expected ones, the model is loaded again with what is more accurate.
    """
    task = load_model(folder, device)
    while mismatch := _check_or_restrict(task, folder, each_alone=each_alone):
        log.warning("the model is loaded again, more accurate and slower: %s", mismatch)
        del task  # the device may have too little memory for both
        task = load_model(folder, device)
    if device.type == "cuda":
        with lock_folder(folder):  # the measurements of several workers would disturb each other
            limit_passes(task, CudaMemory(device), read_workers())
    return task


def _check_or_restrict(task: AdaptedTask, folder: Path, *, each_alone: bool) -> str:
    """Run the model's requests; if a prediction differs, restrict the next load, and return the difference.

    Returns "" if all are the expected ones. Raises GoldenMismatchError if nothing more accurate is left.
    """
    try:
        golden.check(task, each_alone=each_alone)
    except golden.GoldenMismatchError as error:
        if not task.has_accelerator or not restrict_selection(folder):
            raise
        return str(error)
    return ""


def verify_archive() -> None:
    """Check the archive in the working directory; write its golden request and its schema there.

    Every request runs alone and in a batch. Raises an exception if a prediction is not the expected one.
    """
    task = load_and_check(Path(), torch.device("cpu"), each_alone=True)
    Path("golden-request.json").write_text(json.dumps(task.examples[0].body))
    members = {
        "x-accepts": task.accepts,
        "x-streams": task.stream is not None,
        "x-explains": task.explain is not None,
    }
    schema = task.schema.to_json() | {name: value for name, value in members.items() if value}
    Path("schema.json").write_text(json.dumps(schema, indent=1))


def _import_entry(folder: Path) -> Any:
    if not (folder / f"{ENTRY}.py").exists():
        raise LoadError(f"{folder}: expected {ENTRY}.py, which defines load(folder, device)")
    while _loaded:
        _forget_modules(_loaded.pop())
    sys.modules.pop(ENTRY, None)
    _loaded.append(folder)
    sys.path.insert(0, str(folder))
    importlib.invalidate_caches()
    return importlib.import_module(ENTRY)


def _forget_modules(folder: Path) -> None:
    """Remove the modules of a folder, because the next model may have modules of the same names."""
    for name, module in list(sys.modules.items()):
        path = Path(getattr(module, "__file__", None) or "/")
        is_own = folder in path.parents and "site-packages" not in path.parts
        if is_own and name.split(".")[0] not in KEPT:
            del sys.modules[name]
    sys.path[:] = [each for each in sys.path if each != str(folder)]
