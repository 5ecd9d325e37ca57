"""A folder of files, wherever it lies; and one that is mounted here."""

import os
from collections.abc import Callable
from pathlib import Path
from typing import Protocol

Say = Callable[[str], None]
UNREADABLE = f"user {os.getuid()}, who serves, may not read it: chmod -R a+rX"


class StorageError(Exception):
    """What could not be fetched, why, and what to do; for people."""


class Storage(Protocol):
    """A folder of files, wherever it lies."""

    def files(self) -> dict[str, int]:
        """Return the files' sizes in bytes by their names relative to it; raise NotFetched."""
        ...

    def fetch(self, name: str, target: Path) -> None:
        """Lay one of them at `target`, verified; raise NotFetched."""
        ...

    def close(self) -> None:
        """Let go of connections."""
        ...


class Folder:
    """A folder of this machine's."""

    def __init__(self, path: Path) -> None:
        self._path = path

    def files(self) -> dict[str, int]:
        """As Storage says."""
        if not self._path.is_dir():
            raise StorageError(f"{self._path}: no such folder; is it mounted?")
        if not os.access(self._path, os.R_OK | os.X_OK):
            raise StorageError(f"{self._path}: {UNREADABLE}")
        try:
            found = [file for file in sorted(self._path.rglob("*")) if file.is_file()]
            return {str(file.relative_to(self._path)): file.stat().st_size for file in found}
        except OSError as error:
            raise StorageError(f"{self._path}: {error}") from error

    def fetch(self, name: str, target: Path) -> None:
        """As Storage says; nothing is copied, the target becomes a link."""
        source = self._path / name
        try:
            with source.open("rb"):
                pass
        except OSError as error:
            raise StorageError(f"{source}: {error.strerror}: {UNREADABLE}") from error
        target.symlink_to(source.absolute())

    def close(self) -> None:
        """As Storage says; there are none."""


class SingleFile:
    """One file of a folder."""

    def __init__(self, folder: Storage, name: str) -> None:
        self._folder, self._name = folder, name
        self.fetch, self.close = folder.fetch, folder.close

    def files(self) -> dict[str, int]:
        """As Storage says."""
        found = self._folder.files()
        if self._name not in found:
            raise StorageError(f"{self._name} is not among {', '.join(sorted(found)[:8])}")
        return {self._name: found[self._name]}
