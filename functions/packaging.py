"""Copy the files of a function into one folder, in which it is run and from which it is deployed."""

from collections.abc import Iterator
from pathlib import Path

from functions.model_archive import generate_sources
from functions.registry import ROOT, Function

BUILD = Path("build/functions")


def assemble(function: Function, build: Path = BUILD) -> Path:
    """Write the files of a function to BUILD/NAME, and return that folder.

    main.py and requirements.txt are at its top, where Google expects them; shared files keep their paths.
    Unchanged files are not written again, so that a function that runs from there is not disturbed. Other
    files are deleted.
    """
    target = build / function.name
    contents = {target / path: content for path, content in _list_files(function)}
    for path in sorted(target.rglob("*"), reverse=True):  # a folder comes after its contents
        if path.is_dir() and not any(path.iterdir()):
            path.rmdir()
        elif not path.is_dir() and path not in contents:
            path.unlink(missing_ok=True)
    for path, content in contents.items():
        if not path.is_file() or path.read_bytes() != content:
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_bytes(content)
    return target


def _list_files(function: Function) -> Iterator[tuple[Path, bytes]]:
    """Yield each file's path in the target folder, and its content."""
    for name in ("main.py", "requirements.txt"):
        yield Path(name), (function.folder / name).read_bytes()
    for shared in function.shared:
        for file in [ROOT / shared, *(ROOT / shared).rglob("*")]:
            path = file.relative_to(ROOT)
            is_excluded = str(path) in function.excluded or "__pycache__" in path.parts
            if file.is_file() and not is_excluded:
                yield path, file.read_bytes()
    if function.model:
        yield from generate_sources(function, function.model)
