"""A folder of a Google Cloud Storage bucket, fetched and verified."""

import base64
import time
from pathlib import Path
from typing import IO, Any

import google_crc32c
from google.api_core.exceptions import Forbidden, GoogleAPIError, NotFound, Unauthorized
from google.auth.exceptions import GoogleAuthError
from google.cloud.storage import Client
from google.cloud.storage.exceptions import DataCorruption, InvalidResponse
from google.cloud.storage.retry import DEFAULT_RETRY
from requests import RequestException

from storage.files import Say, StorageError

TELL_S = 5
"""Between two lines on a download's progress."""
FAULTS = (GoogleAPIError, DataCorruption, InvalidResponse, RequestException)
"""What the client raises where the bucket, the network or the data are at fault."""


class Bucket:
    """A folder of a bucket, read with the container's own credentials.

    STORAGE_EMULATOR_HOST is honoured as google-cloud-storage does.
    """

    def __init__(self, bucket: str, folder: str, say: Say) -> None:
        self._uri = f"gs://{bucket}/{folder}".rstrip("/")
        self._prefix = f"{folder}/" if folder else ""
        self._name, self._say = bucket, say
        self._blobs: dict[str, Any] = {}
        self._client: Client | None = None

    def files(self) -> dict[str, int]:
        """As Storage says."""
        try:
            self._client = Client(project="unused")
            found = self._client.list_blobs(
                self._name, prefix=self._prefix, timeout=20, retry=DEFAULT_RETRY.with_timeout(60)
            )
            for blob in found:
                if not blob.name.endswith("/"):
                    self._blobs[blob.name.removeprefix(self._prefix)] = blob
        except GoogleAuthError as error:
            raise StorageError(f"{self._uri}: no credentials to read it with: {error}") from error
        except FAULTS as error:
            raise StorageError(f"{self._uri}: {_advice(error)}") from error
        if not self._blobs:
            raise StorageError(f"{self._uri}: there is nothing in it")
        return {name: int(blob.size) for name, blob in self._blobs.items()}

    def fetch(self, name: str, target: Path) -> None:
        """As Storage says; the checksum is the bucket's CRC32C."""
        blob, began = self._blobs[name], time.monotonic()
        try:
            with target.open("wb") as file:
                blob.download_to_file(_Progress(file, f"{self._uri}/{name}", blob.size, self._say))
        except (*FAULTS, OSError) as error:
            raise StorageError(f"{self._uri}/{name}: {_advice(error)}") from error
        if blob.crc32c is None or crc32c(target) != blob.crc32c:
            raise StorageError(
                f"{self._uri}/{name}: what arrived has CRC32C {crc32c(target)}, the bucket says "
                f"{blob.crc32c}"
            )
        took = time.monotonic() - began
        self._say(f"fetched {self._uri}/{name}: {_mb(blob.size)} in {took:.1f} s, checksum right")

    def close(self) -> None:
        """As Storage says."""
        if self._client is not None:
            self._client.close()


def crc32c(file: Path) -> str:
    """Return a file's CRC32C as Cloud Storage writes it: four bytes, big-endian, in base64."""
    checksum: Any = google_crc32c.Checksum()  # type: ignore[no-untyped-call]
    with file.open("rb") as stream:
        for _ in checksum.consume(stream, 1 << 20):
            pass
    return base64.b64encode(checksum.digest()).decode()


class _Progress:
    """A file that tells how much has been written to it."""

    def __init__(self, file: IO[bytes], name: str, size: int, say: Say) -> None:
        self._file, self._name, self._size, self._say = file, name, size, say
        self._told = time.monotonic()

    def write(self, data: bytes) -> int:
        written = self._file.write(data)
        if time.monotonic() - self._told > TELL_S:
            self._told = time.monotonic()
            self._say(f"{self._name}: {_mb(self._file.tell())} of {_mb(self._size)}")
        return written

    def __getattr__(self, name: str) -> Any:
        return getattr(self._file, name)


def _advice(error: Exception) -> str:
    reason = " ".join(str(error).split())[:500]
    if isinstance(error, (Forbidden, Unauthorized)):
        return (
            f"{reason} (grant roles/storage.objectViewer on it to the container's service account)"
        )
    if isinstance(error, NotFound):
        return f"{reason} (does the bucket exist?)"
    return reason


def _mb(size: int) -> str:
    return f"{size / 1e6:.1f} MB"
