"""Fetch a model's files from Google Cloud Storage or from a mounted folder."""

import re
from pathlib import Path

from storage.files import Folder, LogFunction, SingleFile, Storage, StorageError

URI = re.compile(r"gs://([a-z0-9][a-z0-9._-]{1,220}[a-z0-9])((?:/.*)?)", re.DOTALL)


def open_storage(uri: str, log: LogFunction) -> Storage:
    """Return the files at gs://BUCKET/FOLDER or /FOLDER, or the one file at FOLDER/NAME.mar (.tar.gz, .tgz).

    `log` gets a line on the progress of a long download. Raises StorageError for any other URI.
    """
    if uri.lower().endswith((".mar", ".tar.gz", ".tgz")):
        folder, _, name = uri.rpartition("/")
        return SingleFile(open_storage(folder, log), name)
    if parts := split_uri(uri):
        # The import takes a second, and a mounted folder does not need it.
        from storage.bucket import Bucket  # noqa: PLC0415

        return Bucket(*parts, log)
    path = uri.removeprefix("file://")
    if path.startswith("/"):
        return Folder(Path(path))
    raise StorageError(
        f"{uri}: expected gs://BUCKET/FOLDER, or the path of a mounted folder; a bucket's name has "
        "lowercase letters, digits, hyphens, dots and underscores"
    )


def split_uri(uri: str) -> tuple[str, str] | None:
    """Return bucket and folder of gs://BUCKET/FOLDER, or None for any other URI."""
    match = URI.fullmatch(uri)
    return (match[1], match[2].strip("/")) if match else None
