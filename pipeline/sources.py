"""What the training's sources hash to: a cached training is good as long as they stay."""

import hashlib
from pathlib import Path

TRAINING = ("model", "task", "engine", "requirements/torch.lock", "requirements/dev.lock")
LEFT_OUT = {"__pycache__", "build", ".git", ".venv", ".ruff_cache", ".mypy_cache", ".pytest_cache"}


def fingerprint(root: Path, names: tuple[str, ...] = TRAINING) -> str:
    """Return 16 digits that are the same as long as these files and folders are."""
    total = hashlib.sha256()
    for name in names:
        path = root / name
        files = [path] if path.is_file() else sorted(path.rglob("*"))
        for file in files:
            inside = file.relative_to(root)
            if file.is_file() and not LEFT_OUT & set(inside.parts):
                total.update(
                    f"{inside}\0{hashlib.sha256(file.read_bytes()).hexdigest()}\0".encode()
                )
    return total.hexdigest()[:16]
