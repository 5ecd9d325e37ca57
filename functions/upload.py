"""Upload a function's model to a bucket."""

import contextlib
import time
from pathlib import Path

from google.cloud.storage import Client

import storage
from deploy.buckets import TIMEOUT_S, get_or_create_bucket, storage_errors
from deploy.errors import UserError
from functions.registry import Function
from storage.lazy import sha256


def upload_model(function: Function, uri: str, project: str, region: str) -> None:
    """Upload the model to gs://BUCKET/FOLDER; create the bucket if it is missing. Raise UserError."""
    files = find_model_files(function)
    parts = storage.split_uri(uri)
    if parts is None:
        raise UserError(
            f"{uri}: expected gs://BUCKET/FOLDER", f"set STORAGE=gs://my-bucket/{function.name}"
        )
    name, folder = parts
    with storage_errors(uri), contextlib.closing(Client(project=project or "unused")) as client:
        hint = "STORAGE=gs://another-name/…"
        bucket = get_or_create_bucket(client, name, region, project=project, hint=hint)
        for file in files:
            start, path = time.monotonic(), f"{folder}/{file.name}".lstrip("/")
            # An upload replaces the object atomically: a client never fetches a part of it.
            bucket.blob(path).upload_from_filename(str(file), checksum="crc32c", timeout=TIMEOUT_S)
            size, duration_s = file.stat().st_size / 1024, time.monotonic() - start
            print(f"gs://{name}/{path}: {size:.0f} KiB in {duration_s:.1f} s", flush=True)
    for file in files:
        if file.name in function.model:
            print(f"SHA-256 of {file.name}: {sha256(file)}")


def find_model_files(function: Function) -> list[Path]:
    """Return the local files of a function's model; raise UserError if one is missing."""
    if not function.model:
        raise UserError(f"{function.name} has no model", "set NAME=knn or NAME=digits")
    files = [function.model_folder / name for name in function.model]
    for file in files:
        if not file.is_file():
            raise UserError(f"{file} does not exist", function.build_command)
    optional = [function.model_folder / name for name in function.optional]
    return [*files, *filter(Path.is_file, optional)]
