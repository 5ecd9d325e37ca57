"""Load a model from the folder of its archive."""

import importlib
import json
import sys
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import torch

from handler import golden
from task import Golden


def load_model(folder: Path, device: torch.device) -> Any:
    """Import FOLDER/model.py and load its task."""
    sys.path.insert(0, str(folder.resolve()))
    task = importlib.import_module("model").load(folder, device)
    task.network, task.labels = getattr(task, "network", None), getattr(task, "labels", None)
    rows = json.loads((folder / "requests.json").read_text())
    task.examples = [
        SimpleNamespace(instance=r["instance"], parameters=r.get("parameters", {})) for r in rows
    ]
    task.golden = Golden(rows[0]["instance"], rows[0].get("expected", {}))
    return task


def load_and_check(folder: Path, device: torch.device) -> Any:
    """Load a task and run its requests."""
    task = load_model(folder, device)
    golden.check(task)
    return task


def verify_archive() -> None:
    """Check the archive in the working directory, and write its golden request."""
    task = load_and_check(Path(), torch.device("cpu"))
    Path("golden-request.json").write_text(json.dumps(golden.request(task)))
