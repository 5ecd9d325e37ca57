"""A function's source as it is deployed: a folder of its own, with a copy for every link."""

import shutil
from pathlib import Path

from functions.catalogue import Function

BUILD = Path("build/functions")
LEFT_OUT = (
    "__pycache__",
    "README.md",
    "train",  # of the model, as `trained` and `export`
    "trained",
    "export",
    "train.py",
    "vertex_handler.py",  # TorchServe's
)


def lay_out(function: Function, build: Path = BUILD) -> Path:
    """Write BUILD/NAME anew and return it: what `gcloud functions deploy --source` takes.

    gcloud passes over links to folders.
    """
    target = build / function.name
    shutil.rmtree(target, ignore_errors=True)
    shutil.copytree(function.folder, target, ignore=shutil.ignore_patterns(*LEFT_OUT))
    return target
