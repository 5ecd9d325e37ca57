"""Resource Manager: the caller's permissions in the project."""

from collections.abc import Collection

from google.cloud import resourcemanager_v3

from deploy.gcp.client import Client


class IAM:
    """A client for permissions."""

    def __init__(self, client: Client) -> None:
        self._client = client

    def missing_permissions(self, permissions: Collection[str]) -> list[str]:
        """Return those of the permissions that the caller does not have in the project."""
        resource = f"projects/{self._client.settings.project}"
        request = {"resource": resource, "permissions": list(permissions)}
        projects = self._client.connect(resourcemanager_v3.ProjectsClient)
        granted = self._client.read(projects.test_iam_permissions, request=request).permissions
        return [permission for permission in permissions if permission not in granted]
