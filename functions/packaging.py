"""A function's source, laid out in a folder of its own: run here and deployed from there."""

import fnmatch
import shutil
from collections.abc import Iterator
from pathlib import Path

from functions.registry import ROOT, Function

BUILD = Path("build/functions")


def lay_out(function: Function, build: Path = BUILD) -> Path:
    """Copy what a function consists of to BUILD/NAME, and return that folder.

    Its main.py and requirements.txt lie at the top, as Google wants them, and what it shares with the
    rest of this project at the same paths as here. Files that are already the same are not written
    again, so a function that runs from there is not disturbed; anything else there is deleted.
    """
    target = build / function.name
    wanted = {target / path: source for path, source in _files(function)}
    for path in sorted(target.rglob("*"), reverse=True):  # what is in a folder before the folder
        if path.is_dir() and not any(path.iterdir()):
            path.rmdir()
        elif not path.is_dir() and path not in wanted:
            path.unlink(missing_ok=True)
    for path, source in wanted.items():
        if not path.is_file() or path.read_bytes() != source.read_bytes():
            path.parent.mkdir(parents=True, exist_ok=True)
            shutil.copy2(source, path)
    return target


def _files(function: Function) -> Iterator[tuple[Path, Path]]:
    """Yield the path of each file in the laid-out folder, and the file that is copied there."""
    for name in ("main.py", "requirements.txt"):
        yield Path(name), function.folder / name
    for shared in function.shared:
        for file in [ROOT / shared, *(ROOT / shared).rglob("*")]:
            path = file.relative_to(ROOT)
            left_out = any(fnmatch.fnmatch(str(path), pattern) for pattern in function.left_out)
            if file.is_file() and not left_out and "__pycache__" not in path.parts:
                yield path, file
