"""Buckets, as Vertex AI uses them: on the storage emulator, with Google's own client."""

import contextlib
from collections.abc import Iterator

from google.api_core.exceptions import GoogleAPIError, NotFound
from google.auth.credentials import AnonymousCredentials
from google.cloud import aiplatform_v1 as v1
from google.cloud.storage import Client

from emulator.config import EmulatorConfig
from emulator.errors import ApiError, failed_precondition, invalid_argument

COPIES = "vertex-copies"


@contextlib.contextmanager
def storage_client(config: EmulatorConfig) -> Iterator[Client]:
    """Give a client; it is closed afterwards, as the emulator hears one connection at a time."""
    options = {"api_endpoint": config.storage}
    made = Client("rehearsal", AnonymousCredentials(), client_options=options)
    try:
        yield made
    except GoogleAPIError as error:
        raise failed_precondition(f"Cloud Storage: {error}") from error
    finally:
        made.close()


def split_uri(uri: str) -> tuple[str, str]:
    """Return a gs:// URI's bucket and path; raise Refused."""
    bucket, _, path = uri.removeprefix("gs://").partition("/")
    if not uri.startswith("gs://") or not bucket:
        raise invalid_argument(f"{uri} is not a Cloud Storage URI (gs://BUCKET/PATH).")
    return bucket, path


def copy_artifacts(config: EmulatorConfig, model: v1.Model) -> str:
    """Copy a model's artifacts into a bucket of Google's own; return the folder's URI, or ""."""
    if not model.artifact_uri:
        return ""
    bucket, path = split_uri(model.artifact_uri.rstrip("/") + "/")
    folder = f"{model.name}/{model.version_id}/"
    with storage_client(config) as storage:
        try:
            target = storage.get_bucket(COPIES)
        except NotFound:
            target = storage.create_bucket(COPIES)
        found = list(storage.list_blobs(bucket, prefix=path))
        if not found:
            raise ApiError("NOT_FOUND", f"There is nothing under {model.artifact_uri}.")
        for blob in found:
            target.blob(folder + blob.name.removeprefix(path)).upload_from_string(
                blob.download_as_bytes()
            )
    return f"gs://{COPIES}/{folder}"


def read_objects(config: EmulatorConfig, uris: list[str]) -> list[bytes]:
    """Return the contents of objects; a * at a URI's end stands for the rest of a name."""
    contents = []
    with storage_client(config) as storage:
        for uri in uris:
            bucket, path = split_uri(uri)
            prefix, star, _ = path.partition("*")
            blobs = [b for b in storage.list_blobs(bucket, prefix=prefix) if star or b.name == path]
            if not blobs:
                raise ApiError("NOT_FOUND", f"There is nothing at {uri}.")
            contents += [blob.download_as_bytes() for blob in blobs]
    return contents


def write_object(config: EmulatorConfig, uri: str, content: bytes) -> None:
    """Write an object."""
    bucket, path = split_uri(uri)
    with storage_client(config) as storage:
        storage.bucket(bucket).blob(path).upload_from_string(content)
