"""Cloud Storage: the sources that builds have uploaded, and the schemas of models."""

import contextlib
import os
from urllib.parse import quote

from google.api_core.exceptions import NotFound

from deploy.errors import UserError
from deploy.gcp.client import Client

HOST_VARIABLE = "STORAGE_EMULATOR_HOST"
"""The variable of Google's storage libraries that directs them to an emulator."""


class Storage:
    """A client for the objects of a folder."""

    def __init__(self, client: Client) -> None:
        self._client = client
        self._host = os.environ.get(HOST_VARIABLE) or "https://storage.googleapis.com"

    def list_objects(self, folder: str) -> list[str]:
        """Return the names of the objects under a gs:// folder; an empty list if the bucket does not exist."""
        bucket, _, prefix = folder.removeprefix("gs://").partition("/")
        url = f"{self._host}/storage/v1/b/{bucket}/o"
        return [item["name"] for item in self._client.list_all(url, "items", prefix=prefix)]

    def find_prefix(self, uri: str) -> bool | None:
        """Return whether an object's URI starts like this one; None if the bucket does not exist."""
        bucket, _, prefix = uri.removeprefix("gs://").partition("/")
        url = f"{self._host}/storage/v1/b/{bucket}/o"
        found = self._client.get(url, prefix=prefix, maxResults=1)
        return None if found is None else bool(found.get("items"))

    def delete_objects(self, folder: str) -> None:
        """Delete the objects under a gs:// folder."""
        bucket = folder.removeprefix("gs://").partition("/")[0]
        for name in self.list_objects(folder):
            if self._client.dry_run:
                self._client.report_call("storage.objects.delete", {"bucket": bucket, "name": name})
                continue
            url = f"{self._host}/storage/v1/b/{bucket}/o/{quote(name, safe='')}"
            with contextlib.suppress(NotFound):
                self._client.read(self._client.send, method="DELETE", url=url)

    def write_object(self, uri: str, text: str) -> None:
        """Write an object; raise UserError."""
        bucket, _, name = uri.removeprefix("gs://").partition("/")
        if self._client.dry_run:
            self._client.report_call("storage.objects.insert", {"bucket": bucket, "name": name})
            return
        url = f"{self._host}/upload/storage/v1/b/{bucket}/o?uploadType=media&name={quote(name, safe='')}"
        try:
            self._client.read(self._client.send, method="POST", url=url, data=text.encode())
        except NotFound:
            raise UserError(f"the bucket gs://{bucket} does not exist", "create it") from None
