"""The interface of a folder of files, and the folder that is mounted on this machine."""

import os
from collections.abc import Callable
from pathlib import Path
from typing import Protocol

LogFunction = Callable[[str], None]
"""Writes a line to the log."""
PERMISSION_DENIED = f"permission denied for user {os.getuid()}; run chmod -R a+rX on the folder"


class StorageError(Exception):
    """A file or folder could not be fetched. The text gives the reason and what to do."""


class Storage(Protocol):
    """A folder of files, local or remote."""

    def list_files(self) -> dict[str, int]:
        """Return sizes in bytes by name relative to the folder; raise StorageError."""
        ...

    def fetch(self, name: str, target: Path) -> None:
        """Create `target` with a file's content, verified; raise StorageError."""
        ...

    def close(self) -> None:
        """Close all connections."""
        ...


class Folder:
    """A local folder."""

    def __init__(self, path: Path) -> None:
        self._path = path

    def list_files(self) -> dict[str, int]:
        """Return the files of the folder and its subfolders."""
        if not self._path.is_dir():
            raise StorageError(f"{self._path}: folder not found; is it mounted?")
        if not os.access(self._path, os.R_OK | os.X_OK):
            raise StorageError(f"{self._path}: {PERMISSION_DENIED}")
        try:
            files = [file for file in sorted(self._path.rglob("*")) if file.is_file()]
            return {str(file.relative_to(self._path)): file.stat().st_size for file in files}
        except OSError as error:
            raise StorageError(f"{self._path}: {error}") from error

    def fetch(self, name: str, target: Path) -> None:
        """Link `target` to a file; nothing is copied."""
        source = self._path / name
        try:
            with source.open("rb"):
                pass
        except PermissionError as error:
            raise StorageError(f"{source}: {PERMISSION_DENIED}") from error
        except OSError as error:
            raise StorageError(f"{source}: {error.strerror}") from error
        target.symlink_to(source.absolute())

    def close(self) -> None:
        """Do nothing: there are no connections."""


class SingleFile:
    """One file of a folder."""

    def __init__(self, folder: Storage, name: str) -> None:
        self._folder, self._name = folder, name
        self.fetch, self.close = folder.fetch, folder.close

    def list_files(self) -> dict[str, int]:
        """Return the one file; raise StorageError if the folder does not have it."""
        files = self._folder.list_files()
        if self._name not in files:
            raise StorageError(f"{self._name} not found among {', '.join(sorted(files)[:8])}")
        return {self._name: files[self._name]}
