"""What the contents of files and folders hash to."""

import hashlib
from collections.abc import Collection, Iterable
from pathlib import Path

CACHES = frozenset(
    ("__pycache__", "build", ".git", ".venv", ".ruff_cache", ".mypy_cache", ".pytest_cache")
)
"""Names of files and folders that never belong to the sources."""


def fingerprint(root: Path, names: Iterable[str], leave_out: Collection[str] = CACHES) -> str:
    """Return 16 hexadecimal digits that change only with the paths and contents of these files.

    `names` are files or folders, relative to `root`. A file is left out if its name, or the name of
    a folder between it and `root`, is in `leave_out`. What does not exist counts as empty.
    """
    total = hashlib.sha256()
    for name in names:
        path = root / name
        files = [path] if path.is_file() else sorted(filter(Path.is_file, path.rglob("*")))
        for file in files:
            inside = file.relative_to(root)
            if not any(part in leave_out for part in inside.parts):
                digest = hashlib.sha256(file.read_bytes()).hexdigest()
                total.update(f"{inside}\0{digest}\0".encode())
    return total.hexdigest()[:16]
