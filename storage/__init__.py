"""Where a model's files are fetched from: a bucket of Google Cloud Storage, or a mounted folder."""

from pathlib import Path
from urllib.parse import urlsplit

from storage.files import Folder, NotFetched, One, Say, Storage


def at(uri: str, say: Say) -> Storage:
    """Return the storage at gs://BUCKET/FOLDER or /FOLDER, or one .mar in it; raise NotFetched.

    `say` is told how a long download goes.
    """
    if uri.endswith(".mar"):
        folder, _, name = uri.rpartition("/")
        return One(at(folder, say), name)
    address = urlsplit(uri)
    if address.scheme == "gs" and address.netloc:
        # It takes a second to import, and a mounted folder never needs it.
        from storage.bucket import Bucket  # noqa: PLC0415

        return Bucket(address.netloc, address.path.strip("/"), say)
    if address.scheme in ("", "file") and not address.netloc and address.path.startswith("/"):
        return Folder(Path(address.path))
    raise NotFetched(f"{uri}: expected gs://BUCKET/FOLDER, or the path of a mounted folder")
