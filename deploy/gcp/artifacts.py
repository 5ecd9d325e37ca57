"""Artifact Registry: the repository and its images."""

import functools

from google.cloud import artifactregistry_v1 as ar

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
        packages = self._client.list_all(self._service.list_packages, parent=self._repository)
        suffix = f"/packages/{self._settings.name}"
        return any(package.name.endswith(suffix) for package in packages)

    def find_digest(self, tag: str) -> str | None:
        """Return the digest of a tag, sha256:…; None if the tag does not exist."""
        host, _, path = self._settings.image_name.partition("/")
        scheme = "http" if host.startswith(("127.0.0.1", "localhost")) else "https"
        url = f"{scheme}://{host}/v2/{path}/manifests/{tag}"
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
        if self._client.find(self._service.get_repository, name=self._repository) is not None:
            return
        name, docker = self._settings.repository, ar.Repository.Format.DOCKER
        repository = ar.Repository(format_=docker, description="Images of python -m deploy")
        location = self._settings.location
        request = ar.CreateRepositoryRequest(
            parent=location, repository_id=name, repository=repository
        )
        action = f"creating the repository {name}"
        self._client.run_operation(self._service.create_repository, request, action)

    def delete_images(self) -> None:
        """Delete the images of this name from the repository."""
        name = f"{self._repository}/packages/{self._settings.name}"
        request = ar.DeletePackageRequest(name=name)
        self._client.run_operation(self._service.delete_package, request, "deleting the images")

    @property
    def _repository(self) -> str:
        return f"{self._settings.location}/repositories/{self._settings.repository}"

    @functools.cached_property
    def _service(self) -> ar.ArtifactRegistryClient:
        return self._client.connect(ar.ArtifactRegistryClient)
