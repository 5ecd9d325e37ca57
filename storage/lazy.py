"""A model that is fetched from a storage once, when it is first asked for."""

import contextlib
import hashlib
import logging
import os
import tempfile
import threading
import time
from collections.abc import Callable, Iterable, Mapping
from pathlib import Path
from typing import Generic, TypeVar

import storage
from storage.files import StorageError

URI = "STORAGE_URI"
"""The variable that says where the model lies: gs://BUCKET/FOLDER, or a folder."""
PIN = "MODEL_SHA256"
"""The variable with the SHA-256 that the model's files must have, in hex, commas between; unset: any."""

log = logging.getLogger(__name__)
T = TypeVar("T")


class NotLoadedError(Exception):
    """Why there is no model, and what to do; for people."""


class LazyModel(Generic[T]):
    """A model that is fetched and loaded when it is first asked for, once for a process.

    Not at import: a web server forks after it, and neither torch's threads nor an open
    connection survive that.
    """

    def __init__(
        self,
        load: Callable[[Path], T],
        files: Iterable[str],
        optional: Iterable[str] = (),
        environ: Mapping[str, str] = os.environ,
    ) -> None:
        """`load` makes the model of a folder with `files`, and those of `optional` that there are.

        The SHA-256 of `files` may be pinned, in their order.
        """
        self._load, self._environ = load, environ
        self._files, self._optional = list(files), list(optional)
        self._lock, self._tries = threading.Lock(), 0
        self._model: T | None = None
        self._failure = NotLoadedError("it was never asked for")

    def get(self) -> T:
        """Return the model; raise NotLoaded, also to those who waited for the try that failed.

        The next who asks makes another try: a bucket may come back.
        """
        tries = self._tries
        if self._model is None:
            with self._lock:
                if self._model is None and self._tries == tries:
                    self._try()
        if self._model is None:
            raise self._failure
        return self._model

    def _try(self) -> None:
        began = time.monotonic()
        try:
            with tempfile.TemporaryDirectory(prefix="model-") as folder:
                self._fetch(Path(folder))
                self._model = self._load(Path(folder))
            _say(f"the model is loaded, after {time.monotonic() - began:.1f} s")
        except Exception as error:  # whatever it is: nothing is served without a model
            reason = " ".join(str(error).split())
            if not isinstance(error, StorageError):
                reason = f"{self._environ.get(URI)}: {type(error).__name__}: {reason}"
            self._failure = NotLoadedError(reason)
            log.exception("the model cannot be loaded: %s", reason)
        finally:
            self._tries += 1

    def _fetch(self, folder: Path) -> None:
        uri = self._environ.get(URI, "").rstrip("/")
        if not uri:
            raise StorageError(f"{URI} is not set: gs://BUCKET/FOLDER, where the model lies")
        with contextlib.closing(storage.open_storage(uri, _say)) as there:
            found = there.files()
            for name in self._files:
                if name not in found:
                    among = ", ".join(sorted(found)[:8])
                    raise StorageError(f"{uri}/{name}: no such object; there are {among}")
            for name in (*self._files, *(each for each in self._optional if each in found)):
                there.fetch(name, folder / name)
        pins = [pin.strip().lower() for pin in self._environ.get(PIN, "").split(",")]
        if len(pins) > len(self._files):
            raise StorageError(f"{PIN} has {len(pins)} of them, for {', '.join(self._files)}")
        for name, pin in zip(self._files, pins, strict=False):
            if pin and pin != (got := sha256(folder / name)):
                raise StorageError(
                    f"{uri}/{name}: its SHA-256 is {got}, {PIN} says {pin}: "
                    "it is not the file that was deployed; put that one back, or deploy again"
                )


def sha256(file: Path) -> str:
    """Return a file's SHA-256 in hex."""
    with file.open("rb") as stream:
        return hashlib.file_digest(stream, "sha256").hexdigest()


def _say(line: str) -> None:
    print(line, flush=True)
