"""Resource Manager: the caller's permissions in the project."""

from collections.abc import Collection

from deploy.gcp.client import Client


class IAM:
    """A client for permissions."""

    def __init__(self, client: Client) -> None:
        self._client = client

    def missing_permissions(self, permissions: Collection[str]) -> list[str]:
        """Return those of the permissions that the caller does not have in the project."""
        url = self._client.url("cloudresourcemanager", "v3")
        project = f"{url}/projects/{self._client.settings.project}"
        body = {"permissions": list(permissions)}
        granted = self._client.query(f"{project}:testIamPermissions", body).get("permissions", ())
        return [permission for permission in permissions if permission not in granted]
