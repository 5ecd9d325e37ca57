"""Put a function's model into a bucket."""

import time
from pathlib import Path

from google.api_core.exceptions import Conflict, Forbidden, GoogleAPIError, NotFound
from google.auth.exceptions import GoogleAuthError
from google.cloud.storage import Bucket, Client
from google.cloud.storage.retry import DEFAULT_RETRY
from requests import RequestException

import storage
from deploy.errors import Stop
from functions.catalogue import Function
from storage.fetched import sha256

TIMEOUT_S = 60
RETRY = DEFAULT_RETRY.with_timeout(120)


def upload(function: Function, uri: str, project: str, region: str) -> None:
    """Put the model into gs://BUCKET/FOLDER, and make the bucket where it is missing; raise Stop."""
    files = made(function)
    where = storage.split(uri)
    if where is None:
        raise Stop(f"{uri}: expected gs://BUCKET/FOLDER", f"STORAGE=gs://my-bucket/{function.name}")
    name, folder = where
    try:
        client = Client(project=project or "unused")
        try:
            bucket = _bucket(client, name, project, region)
            for file in files:
                began, path = time.monotonic(), f"{folder}/{file.name}".lstrip("/")
                # A whole object replaces a whole object: nobody ever fetches half of it.
                bucket.blob(path).upload_from_filename(
                    str(file), checksum="crc32c", timeout=TIMEOUT_S, retry=RETRY
                )
                size, took = file.stat().st_size / 1024, time.monotonic() - began
                print(f"gs://{name}/{path}: {size:.0f} KiB in {took:.1f} s", flush=True)
        finally:
            client.close()
    except GoogleAuthError as error:
        raise Stop(
            f"no credentials: {error}".partition("\n")[0], "gcloud auth application-default login"
        ) from None
    except Forbidden as error:
        raise Stop(
            f"{uri}: {error.message}",
            f"grant roles/storage.admin on it: gcloud storage buckets add-iam-policy-binding "
            f"gs://{name} --role=roles/storage.admin --member=user:…",
        ) from None
    except (GoogleAPIError, RequestException) as error:
        raise Stop(f"{uri}: {error}", "run the same command again") from None
    for file in files:
        if file.name in function.model:
            print(f"SHA-256 of {file.name}: {sha256(file)}")


def made(function: Function) -> list[Path]:
    """Return the files of a function's model; raise Stop where one is missing."""
    if not function.model:
        raise Stop(f"{function.name} has no model", "NAME=knn or NAME=digits")
    for name in function.model:
        if not (function.made / name).is_file():
            raise Stop(f"{function.made / name} does not exist", function.make)
    optional = [function.made / name for name in function.optional]
    return [*(function.made / name for name in function.model), *filter(Path.is_file, optional)]


def _bucket(client: Client, name: str, project: str, region: str) -> Bucket:
    """Return a bucket, made where it is missing: closed to the public, near the function."""
    try:
        return client.get_bucket(name, timeout=TIMEOUT_S, retry=RETRY)
    except NotFound:
        if not project:
            raise Stop(
                f"there is no bucket {name}", "PROJECT=my-project as well: it is then made there"
            ) from None
    bucket = client.bucket(name)
    bucket.iam_configuration.uniform_bucket_level_access_enabled = True
    bucket.iam_configuration.public_access_prevention = "enforced"
    try:
        made: Bucket = client.create_bucket(bucket, location=region, timeout=TIMEOUT_S, retry=RETRY)
    except Conflict:
        raise Stop(
            f"the bucket {name} belongs to somebody else", "STORAGE=gs://another-name/…"
        ) from None
    print(f"made gs://{name} in {region}, closed to the public", flush=True)
    return made
