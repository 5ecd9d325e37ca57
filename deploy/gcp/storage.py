"""Cloud Storage: the sources that builds have uploaded, and the schemas of models."""

import functools

from google.api_core.exceptions import NotFound
from google.cloud import storage

from deploy.errors import UserError
from deploy.gcp.client import Client


class Storage:
    """A client for the objects of a folder."""

    def __init__(self, client: Client) -> None:
        self._client = client

    def list_objects(self, folder: str) -> list[storage.Blob]:
        """Return the objects under a gs:// folder; an empty list if the bucket does not exist."""
        bucket, _, prefix = folder.removeprefix("gs://").partition("/")
        return self._client.list_all(self._service.list_blobs, bucket, prefix=prefix)

    def delete_objects(self, folder: str) -> None:
        """Delete the objects under a gs:// folder."""
        for blob in self.list_objects(folder):
            if self._client.dry_run:
                name = {"bucket": blob.bucket.name, "name": blob.name}
                self._client.report_call("storage.objects.delete", name)
            else:
                self._client.read(blob.delete)

    def write_object(self, uri: str, text: str) -> None:
        """Write an object; raise UserError."""
        bucket, _, name = uri.removeprefix("gs://").partition("/")
        if self._client.dry_run:
            self._client.report_call("storage.objects.insert", {"bucket": bucket, "name": name})
            return
        try:
            self._client.read(self._service.bucket(bucket).blob(name).upload_from_string, text)
        except NotFound:
            raise UserError(f"the bucket gs://{bucket} does not exist", "create it") from None

    @functools.cached_property
    def _service(self) -> storage.Client:
        project = self._client.settings.project
        return storage.Client(project=project, credentials=self._client.credentials)
