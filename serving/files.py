"""A folder of files, wherever it lies; and one that is mounted here."""

from collections.abc import Callable
from pathlib import Path
from typing import Protocol

Say = Callable[[str], None]


class NotFetched(Exception):
    """What could not be fetched, why, and what to do; for people."""


class Storage(Protocol):
    """A folder of files, wherever it lies."""

    def files(self) -> dict[str, int]:
        """Return the files' sizes in bytes by their names relative to it; raise NotFetched."""
        ...

    def fetch(self, name: str, target: Path) -> None:
        """Lay one of them at `target`, verified; raise NotFetched."""
        ...


class Folder:
    """A folder of this machine's."""

    def __init__(self, path: Path) -> None:
        self._path = path

    def files(self) -> dict[str, int]:
        """As Storage says."""
        if not self._path.is_dir():
            raise NotFetched(f"{self._path}: no such folder; is it mounted?")
        try:
            found = [file for file in sorted(self._path.rglob("*")) if file.is_file()]
            return {str(file.relative_to(self._path)): file.stat().st_size for file in found}
        except OSError as error:
            raise NotFetched(f"{self._path}: {error}") from error

    def fetch(self, name: str, target: Path) -> None:
        """As Storage says; nothing is copied, the target becomes a link."""
        source = self._path / name
        try:
            with source.open("rb"):
                pass
        except OSError as error:
            raise NotFetched(
                f"{source}: {error.strerror}; this container runs as a user of its own, who must "
                "be allowed to read it"
            ) from error
        target.symlink_to(source.absolute())
