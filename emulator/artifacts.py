"""Objects in Cloud Storage, read and written as Vertex AI does: Google's client on the storage emulator."""

import contextlib
from collections.abc import Iterator

from google.api_core.exceptions import GoogleAPIError, NotFound
from google.auth.credentials import AnonymousCredentials
from google.cloud import aiplatform_v1 as v1
from google.cloud.storage import Client

from emulator.config import EmulatorConfig
from emulator.errors import ApiError, failed_precondition, invalid_argument

COPIES_BUCKET = "vertex-copies"


@contextlib.contextmanager
def storage_client(config: EmulatorConfig) -> Iterator[Client]:
    """Yield a client and close it: the storage emulator handles one connection at a time."""
    options = {"api_endpoint": config.storage_url}
    client = Client("emulator", AnonymousCredentials(), client_options=options)
    try:
        yield client
    except GoogleAPIError as error:
        raise failed_precondition(f"Cloud Storage: {error}") from error
    finally:
        client.close()


def split_uri(uri: str) -> tuple[str, str]:
    """Return the bucket and the path of a gs:// URI; raise ApiError."""
    bucket, _, path = uri.removeprefix("gs://").partition("/")
    if not uri.startswith("gs://") or not bucket:
        raise invalid_argument(f"{uri} is not a Cloud Storage URI (gs://BUCKET/PATH).")
    return bucket, path


def copy_artifacts(config: EmulatorConfig, model: v1.Model) -> str:
    """Copy a model's artifacts into a bucket of Vertex AI; return the folder's URI, or ""."""
    if not model.artifact_uri:
        return ""
    bucket, path = split_uri(model.artifact_uri.rstrip("/") + "/")
    folder = f"{model.name}/{model.version_id}/"
    with storage_client(config) as storage:
        try:
            target = storage.get_bucket(COPIES_BUCKET)
        except NotFound:
            target = storage.create_bucket(COPIES_BUCKET)
        blobs = list(storage.list_blobs(bucket, prefix=path))
        if not blobs:
            raise ApiError("NOT_FOUND", f"No objects found under {model.artifact_uri}.")
        for blob in blobs:
            copy = target.blob(folder + blob.name.removeprefix(path))
            copy.upload_from_string(blob.download_as_bytes())
    return f"gs://{COPIES_BUCKET}/{folder}"


def read_objects(config: EmulatorConfig, uris: list[str]) -> list[bytes]:
    """Return the contents of objects. A URI that ends in * matches every object with that prefix."""
    contents = []
    with storage_client(config) as storage:
        for uri in uris:
            bucket, path = split_uri(uri)
            prefix, star, _ = path.partition("*")
            blobs = [b for b in storage.list_blobs(bucket, prefix=prefix) if star or b.name == path]
            if not blobs:
                raise ApiError("NOT_FOUND", f"No object found at {uri}.")
            contents += [blob.download_as_bytes() for blob in blobs]
    return contents


def write_object(config: EmulatorConfig, uri: str, content: bytes) -> None:
    """Write an object."""
    bucket, path = split_uri(uri)
    with storage_client(config) as storage:
        storage.bucket(bucket).blob(path).upload_from_string(content)
