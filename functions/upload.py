"""Put a function's model into a bucket."""

import contextlib
import time
from pathlib import Path

from google.cloud.storage import Client

import storage
from deploy.buckets import TIMEOUT_S, get_or_create, storage_errors
from deploy.errors import UserError
from functions.registry import Function
from storage.lazy import sha256


def upload(function: Function, uri: str, project: str, region: str) -> None:
    """Put the model into gs://BUCKET/FOLDER, and make the bucket where it is missing; raise Stop."""
    files = made(function)
    where = storage.split_uri(uri)
    if where is None:
        raise UserError(
            f"{uri}: expected gs://BUCKET/FOLDER", f"STORAGE=gs://my-bucket/{function.name}"
        )
    name, folder = where
    with storage_errors(uri), contextlib.closing(Client(project=project or "unused")) as client:
        bucket = get_or_create(
            client, name, region, project=project, hint="STORAGE=gs://another-name/…"
        )
        for file in files:
            began, path = time.monotonic(), f"{folder}/{file.name}".lstrip("/")
            # A whole object replaces a whole object: nobody ever fetches half of it.
            bucket.blob(path).upload_from_filename(str(file), checksum="crc32c", timeout=TIMEOUT_S)
            size, took = file.stat().st_size / 1024, time.monotonic() - began
            print(f"gs://{name}/{path}: {size:.0f} KiB in {took:.1f} s", flush=True)
    for file in files:
        if file.name in function.model:
            print(f"SHA-256 of {file.name}: {sha256(file)}")


def made(function: Function) -> list[Path]:
    """Return the files of a function's model; raise Stop where one is missing."""
    if not function.model:
        raise UserError(f"{function.name} has no model", "NAME=knn or NAME=digits")
    for name in function.model:
        if not (function.made / name).is_file():
            raise UserError(f"{function.made / name} does not exist", function.make)
    optional = [function.made / name for name in function.optional]
    return [*(function.made / name for name in function.model), *filter(Path.is_file, optional)]
