"""Artifact Registry: the repository and its images."""

from deploy.error_messages import GoogleError, to_user_error
from deploy.gcp.client import Client

MANIFESTS = (
    "application/vnd.oci.image.index.v1+json, application/vnd.oci.image.manifest.v1+json, "
    "application/vnd.docker.distribution.manifest.list.v2+json, "
    "application/vnd.docker.distribution.manifest.v2+json"
)


class ArtifactRegistry:
    """A client for the repository and the images of the model's name."""

    def __init__(self, client: Client) -> None:
        self._client = client
        self._settings = client.settings

    def has_images(self) -> bool:
        """Return whether the repository has images of this name."""
        packages = self._client.list_all(f"{self._repository}/packages", "packages")
        suffix = f"/packages/{self._settings.name}"
        return any(package["name"].endswith(suffix) for package in packages)

    def find_digest(self, reference: str, name: str = "") -> str | None:
        """Return the digest of a tag or digest, sha256:…; None if it does not exist.

        `name` is that of an image, with its host; by default it is the image of the settings.
        """
        host, _, path = (name or self._settings.image_name).partition("/")
        scheme = "http" if host.startswith(("127.0.0.1", "localhost")) else "https"
        url = f"{scheme}://{host}/v2/{path}/manifests/{reference}"
        head = self._client.session.head
        response = self._client.read(head, url, headers={"Accept": MANIFESTS})
        if response.status_code == 404:
            return None
        if response.status_code != 200:
            statuses = {401: "UNAUTHENTICATED", 403: "PERMISSION_DENIED"}
            status = statuses.get(response.status_code, "UNAVAILABLE")
            permission = "artifactregistry.repositories.downloadArtifacts"
            message = f"'{permission}': {url} returned {response.status_code}"
            raise to_user_error(GoogleError(status, message), self._settings)
        return response.headers["Docker-Content-Digest"]

    def ensure_repository(self) -> None:
        """Create the repository if it does not exist."""
        if self._client.get(self._repository) is not None:
            return
        name, parent = self._settings.repository, self._repository.rpartition("/")[0]
        rpc, action = "ArtifactRegistry.CreateRepository", f"creating the repository {name}"
        body = {
            "format": "DOCKER",
            "description": "Images of python -m deploy",
            "labels": self._settings.labels,
        }
        self._client.run_operation(rpc, "POST", parent, action, body, repositoryId=name)

    def delete_images(self) -> None:
        """Delete the images of this name from the repository."""
        url = f"{self._repository}/packages/{self._settings.name}"
        rpc = "ArtifactRegistry.DeletePackage"
        self._client.run_operation(rpc, "DELETE", url, "deleting the images")

    @property
    def _repository(self) -> str:
        """The repository's URL."""
        s = self._settings
        base = self._client.url("artifactregistry")
        return f"{base}/{s.location}/repositories/{s.repository}"
