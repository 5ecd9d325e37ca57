"""Fetch and verify the files of a folder in a Google Cloud Storage bucket."""

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

from storage.files import LogFunction, StorageError

PROGRESS_INTERVAL_S = 5
"""Time between two log lines on the progress of a download."""
FETCH_ERRORS = (GoogleAPIError, DataCorruption, InvalidResponse, RequestException)
"""The errors of the client that the bucket, the network or the data cause."""


class Bucket:
    """A folder of a bucket, read with the application default credentials.

    google-cloud-storage follows STORAGE_EMULATOR_HOST.
    """

    def __init__(self, bucket: str, folder: str, log: LogFunction) -> None:
        self._uri = f"gs://{bucket}/{folder}".rstrip("/")
        self._prefix = f"{folder}/" if folder else ""
        self._name, self._log = bucket, log
        self._blobs: dict[str, Any] = {}
        self._client: Client | None = None

    def list_files(self) -> dict[str, int]:
        """Return the objects below the folder; raise StorageError if there are none."""
        try:
            self._client = Client(project="unused")
            blobs = self._client.list_blobs(
                self._name, prefix=self._prefix, timeout=20, retry=DEFAULT_RETRY.with_timeout(60)
            )
            for blob in blobs:
                if not blob.name.endswith("/"):
                    self._blobs[blob.name.removeprefix(self._prefix)] = blob
        except GoogleAuthError as error:
            raise StorageError(f"{self._uri}: no valid credentials: {error}") from error
        except FETCH_ERRORS as error:
            raise StorageError(f"{self._uri}: {_describe_error(error)}") from error
        if not self._blobs:
            raise StorageError(f"{self._uri}: no objects found")
        return {name: int(blob.size) for name, blob in self._blobs.items()}

    def fetch(self, name: str, target: Path) -> None:
        """Download an object and compare its CRC32C with the bucket's."""
        blob, start = self._blobs[name], time.monotonic()
        try:
            with target.open("wb") as file:
                blob.download_to_file(_Progress(file, f"{self._uri}/{name}", blob.size, self._log))
        except (*FETCH_ERRORS, OSError) as error:
            raise StorageError(f"{self._uri}/{name}: {_describe_error(error)}") from error
        if blob.crc32c is None or crc32c(target) != blob.crc32c:
            raise StorageError(
                f"{self._uri}/{name}: the downloaded file has CRC32C {crc32c(target)}, the object "
                f"has {blob.crc32c}; start again to fetch it anew"
            )
        duration_s, size = time.monotonic() - start, _format_mb(blob.size)
        self._log(f"fetched {self._uri}/{name}: {size} in {duration_s:.1f} s, checksum verified")

    def close(self) -> None:
        """Close the client's connections."""
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
    """A file that logs how much has been written to it."""

    def __init__(self, file: IO[bytes], name: str, size: int, log: LogFunction) -> None:
        self._file, self._name, self._size, self._log = file, name, size, log
        self._logged_at = time.monotonic()

    def write(self, data: bytes) -> int:
        written = self._file.write(data)
        if time.monotonic() - self._logged_at > PROGRESS_INTERVAL_S:
            self._logged_at = time.monotonic()
            self._log(f"{self._name}: {_format_mb(self._file.tell())} of {_format_mb(self._size)}")
        return written

    def __getattr__(self, name: str) -> Any:
        return getattr(self._file, name)


def _describe_error(error: Exception) -> str:
    reason = " ".join(str(error).split())[:500]
    if isinstance(error, (Forbidden, Unauthorized)):
        return f"{reason} (grant roles/storage.objectViewer on the bucket to the service account)"
    if isinstance(error, NotFound):
        return f"{reason} (does the bucket exist?)"
    return reason


def _format_mb(size: int) -> str:
    return f"{size / 1e6:.1f} MB"
