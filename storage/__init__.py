"""Where a model's files are fetched from: a bucket of Google Cloud Storage, or a mounted folder."""

import re
from pathlib import Path

from storage.files import Folder, Say, SingleFile, Storage, StorageError

BUCKET = re.compile(r"gs://([a-z0-9][a-z0-9._-]{1,220}[a-z0-9])((?:/.*)?)", re.DOTALL)


def open_storage(uri: str, say: Say) -> Storage:
    """Return the storage at gs://BUCKET/FOLDER or /FOLDER, or one .mar in it; raise NotFetched.

    `say` is told how a long download goes.
    """
    if uri.endswith(".mar"):
        folder, _, name = uri.rpartition("/")
        return SingleFile(open_storage(folder, say), name)
    if found := split(uri):
        # It takes a second to import, and a mounted folder never needs it.
        from storage.bucket import Bucket  # noqa: PLC0415

        return Bucket(*found, say)
    path = uri.removeprefix("file://")
    if path.startswith("/"):
        return Folder(Path(path))
    raise StorageError(
        f"{uri}: expected gs://BUCKET/FOLDER, or the path of a mounted folder; a bucket's name has "
        "lowercase letters, digits, hyphens, dots and underscores"
    )


def split(uri: str) -> tuple[str, str] | None:
    """Return the bucket and the folder of gs://BUCKET/FOLDER; None where it is no such URI."""
    match = BUCKET.fullmatch(uri)
    return (match[1], match[2].strip("/")) if match else None
