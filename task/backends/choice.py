"""Read backend.json, which `make export` writes beside the weights."""

import json
from pathlib import Path
from typing import Any

from task.backends.builders import BASELINE

FILE, OLD_FILE = "backend.json", "engine.json"
"""The file beside the weights that names the backend, and its name in version 0.1."""


def read_choice(folder: Path) -> str:
    """Return the name of the backend in FOLDER/backend.json, or the baseline if there is no such file."""
    for name, key in ((FILE, "backend"), (OLD_FILE, "engine")):
        if (folder / name).is_file():
            return str(json.loads((folder / name).read_text())[key])
    return BASELINE


def read_precisions(folder: Path) -> list[str]:
    """Return the precisions that a GPU may use; only float32 if the file does not name them."""
    return [str(name) for name in _read(folder).get("accelerator", ["float32"])]


def read_times(folder: Path) -> dict[int, float]:
    """Return the milliseconds of a pass on a CPU by its number of instances; empty if they are unknown."""
    choice = _read(folder)
    measured = choice.get("figures", {}).get("backends", {}).get(choice.get("backend"), {})
    return {int(size): float(ms) for size, ms in measured.get("median_ms", {}).items()}


def _read(folder: Path) -> dict[str, Any]:
    file = folder / FILE
    return dict(json.loads(file.read_text())) if file.is_file() else {}
