"""Copy the files of a function into one folder, in which it is run and from which it is deployed."""

import fnmatch
import shutil
from collections.abc import Iterator
from pathlib import Path

from functions.registry import ROOT, Function

BUILD = Path("build/functions")


def assemble(function: Function, build: Path = BUILD) -> Path:
    """Copy the files of a function to BUILD/NAME, and return that folder.

    main.py and requirements.txt are at its top, where Google expects them; shared files keep their paths.
    Unchanged files are not written again, so that a function that runs from there is not disturbed. Other
    files are deleted.
    """
    target = build / function.name
    sources = {target / path: source for path, source in _list_files(function)}
    for path in sorted(target.rglob("*"), reverse=True):  # a folder comes after its contents
        if path.is_dir() and not any(path.iterdir()):
            path.rmdir()
        elif not path.is_dir() and path not in sources:
            path.unlink(missing_ok=True)
    for path, source in sources.items():
        if not path.is_file() or path.read_bytes() != source.read_bytes():
            path.parent.mkdir(parents=True, exist_ok=True)
            shutil.copy2(source, path)
    return target


def _list_files(function: Function) -> Iterator[tuple[Path, Path]]:
    """Yield each file's path in the target folder, and its source."""
    for name in ("main.py", "requirements.txt"):
        yield Path(name), function.folder / name
    for shared in function.shared:
        for file in [ROOT / shared, *(ROOT / shared).rglob("*")]:
            path = file.relative_to(ROOT)
            excluded = any(fnmatch.fnmatch(str(path), pattern) for pattern in function.excluded)
            if file.is_file() and not excluded and "__pycache__" not in path.parts:
                yield path, file
