"""Fetch and load a model at the first request that needs it."""

import atexit
import contextlib
import hashlib
import logging
import os
import shutil
import tempfile
import threading
import time
from collections.abc import Callable, Iterable, Mapping
from pathlib import Path
from typing import Generic, TypeVar

import storage
from storage.files import StorageError

URI_VARIABLE = "STORAGE_URI"
"""The model's location: gs://BUCKET/FOLDER or a local folder."""
PIN_VARIABLE = "MODEL_SHA256"
"""The SHA-256 of the model's files, in hex, separated by commas; unset: any."""

log = logging.getLogger(__name__)
T = TypeVar("T")


class ModelNotLoadedError(Exception):
    """The model could not be loaded. The text gives the reason and what to do."""


class LazyModel(Generic[T]):
    """A model that is fetched and loaded when it is first used, once per process.

    It is not loaded at import, because a web server forks after that, and neither torch's threads nor an
    open connection survive a fork.
    """

    def __init__(
        self,
        load: Callable[[Path], T],
        files: Iterable[str],
        environ: Mapping[str, str] = os.environ,
    ) -> None:
        """`load` gets a folder with `files`, which exists until the process ends.

        MODEL_SHA256 may pin `files`, in their order. Without `files` nothing is fetched.
        """
        self._load, self._environ = load, environ
        self._files = list(files)
        self._lock, self._attempts = threading.Lock(), 0
        self._model: T | None = None
        self._error = ModelNotLoadedError("not loaded yet")

    def get(self) -> T:
        """Return the model; raise ModelNotLoadedError, also to calls that waited for a failed attempt.

        A later call makes another attempt, because the storage may be available again.
        """
        attempts = self._attempts
        if self._model is None:
            with self._lock:
                if self._model is None and self._attempts == attempts:
                    self._attempt()
        if self._model is None:
            raise self._error
        return self._model

    def _attempt(self) -> None:
        start = time.monotonic()
        folder = Path(tempfile.mkdtemp(prefix="model-"))
        try:
            if self._files:
                self._fetch(folder)
            self._model = self._load(folder)
            # A model may read its files, or import the modules beside them, at any request.
            atexit.register(shutil.rmtree, folder, ignore_errors=True)
            _print(f"the model is loaded, after {time.monotonic() - start:.1f} s")
        except Exception as error:  # any error means that nothing can be served
            shutil.rmtree(folder, ignore_errors=True)
            reason = " ".join(str(error).split())
            unexpected = not isinstance(error, StorageError)
            if unexpected:
                reason = f"{self._environ.get(URI_VARIABLE)}: {type(error).__name__}: {reason}"
            self._error = ModelNotLoadedError(reason)
            log.error("the model cannot be loaded: %s", reason, exc_info=unexpected)
        finally:
            self._attempts += 1

    def _fetch(self, folder: Path) -> None:
        uri = self._environ.get(URI_VARIABLE, "").rstrip("/")
        if not uri:
            raise StorageError(
                f"{URI_VARIABLE} is not set; expected gs://BUCKET/FOLDER with the model's files"
            )
        with contextlib.closing(storage.open_storage(uri, _print)) as source:
            available = source.list_files()
            for name in self._files:
                if name not in available:
                    names = ", ".join(sorted(available)[:8])
                    raise StorageError(f"{uri}/{name}: not found among {names}")
            for name in self._files:
                (folder / name).parent.mkdir(parents=True, exist_ok=True)
                source.fetch(name, folder / name)
        self._check_pins(uri, folder)

    def _check_pins(self, uri: str, folder: Path) -> None:
        pins = [pin.strip().lower() for pin in self._environ.get(PIN_VARIABLE, "").split(",")]
        if len(pins) > len(self._files):
            raise StorageError(
                f"{PIN_VARIABLE} has {len(pins)} checksums; expected those of {', '.join(self._files)}"
            )
        for name, pin in zip(self._files, pins, strict=False):
            if pin and pin != (actual := sha256(folder / name)):
                raise StorageError(
                    f"{uri}/{name}: its SHA-256 is {actual}, {PIN_VARIABLE} requires {pin}: the file "
                    "has changed since the deployment; restore it, or deploy again"
                )


def sha256(file: Path) -> str:
    """Return a file's SHA-256 in hex."""
    with file.open("rb") as stream:
        return hashlib.file_digest(stream, "sha256").hexdigest()


def _print(line: str) -> None:
    print(line, flush=True)
