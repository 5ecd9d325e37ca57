"""Upload a function's model to a bucket."""

import contextlib
import time
from pathlib import Path

from google.cloud.storage import Client

import storage
from deploy.buckets import TIMEOUT_S, get_or_create_bucket, storage_errors
from deploy.errors import UserError
from functions.model_archive import extract_files
from functions.registry import Function
from storage.lazy import sha256


def upload_model(function: Function, uri: str, project: str, region: str) -> None:
    """Upload the model to gs://BUCKET/FOLDER; create the bucket if it is missing. Raise UserError."""
    files = find_model_files(function)
    parts = storage.split_uri(uri)
    if parts is None:
        hint = f"set STORAGE=gs://my-bucket/{function.name}"
        raise UserError(f"{uri}: expected gs://BUCKET/FOLDER", hint)
    name, folder = parts
    with storage_errors(uri), contextlib.closing(Client(project=project or "unused")) as client:
        hint = "STORAGE=gs://another-name/…"
        bucket = get_or_create_bucket(client, name, region, project=project, hint=hint)
        for file_name, file in files.items():
            start, path = time.monotonic(), f"{folder}/{file_name}".lstrip("/")
            # An upload replaces the object atomically: a client never fetches a part of it.
            bucket.blob(path).upload_from_filename(str(file), checksum="crc32c", timeout=TIMEOUT_S)
            size, duration_s = file.stat().st_size / 1024, time.monotonic() - start
            print(f"gs://{name}/{path}: {size:.0f} KiB in {duration_s:.1f} s", flush=True)
    for file_name, file in files.items():
        print(f"SHA-256 of {file_name}: {sha256(file)}")


def find_model_files(function: Function) -> dict[str, Path]:
    """Return the local files of a function's model by name; raise UserError if one is missing."""
    if not function.files:
        raise UserError(f"{function.name} has no model", "set NAME=knn or MODEL=")
    if function.model:
        extract_files(function, function.model)
    files = {name: function.files_folder / name for name in function.files}
    for file in files.values():
        if not file.is_file():
            raise UserError(f"{file} does not exist", function.build_command)
    return files
