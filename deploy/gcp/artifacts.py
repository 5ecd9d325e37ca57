"""Images in Artifact Registry, and the sources that Cloud Build got."""

import functools
from typing import Any

from google.cloud import artifactregistry_v1 as ar
from google.cloud import storage

from deploy.error_messages import GoogleError, to_user_error
from deploy.gcp.client import Wire

MANIFESTS = (
    "application/vnd.oci.image.index.v1+json, application/vnd.oci.image.manifest.v1+json, "
    "application/vnd.docker.distribution.manifest.list.v2+json, "
    "application/vnd.docker.distribution.manifest.v2+json"
)


class Artifacts(Wire):
    """What Artifact Registry and Cloud Storage are asked."""

    def has_images(self) -> bool:
        """Say whether the repository has images of this name."""
        found = self._list(self._registry.list_packages, parent=self._repository)
        return any(each.name.endswith(f"/packages/{self.settings.name}") for each in found)

    def digest(self, tag: str) -> str | None:
        """Return the digest of a tag in the registry, sha256:…; None where it is not there."""
        host, _, path = self.settings.image_name.partition("/")
        scheme = "http" if host.startswith(("127.0.0.1", "localhost")) else "https"
        url = f"{scheme}://{host}/v2/{path}/manifests/{tag}"
        reply = self._read(self._session.head, url, headers={"Accept": MANIFESTS})
        if reply.status_code == 404:
            return None
        if reply.status_code != 200:
            known = {401: "UNAUTHENTICATED", 403: "PERMISSION_DENIED"}
            status = known.get(reply.status_code, "UNAVAILABLE")
            permission = "artifactregistry.repositories.downloadArtifacts"
            message = f"'{permission}': {url} answers {reply.status_code}"
            raise to_user_error(GoogleError(status, message), self.settings)
        return str(reply.headers["Docker-Content-Digest"])

    def ensure_repository(self) -> None:
        """Create the repository for images where it is missing."""
        if self._find(self._registry.get_repository, name=self._repository) is not None:
            return
        s, docker = self.settings, ar.Repository.Format.DOCKER
        repository = ar.Repository(format_=docker, description="Images of python -m deploy")
        request = ar.CreateRepositoryRequest(
            parent=s.location, repository_id=s.repository, repository=repository
        )
        doing = f"creating the repository {s.repository}"
        self._start(doing, self._registry.create_repository, request)

    def delete_images(self) -> None:
        """Delete the images of this name from the repository."""
        request = ar.DeletePackageRequest(name=f"{self._repository}/packages/{self.settings.name}")
        self._start("deleting the images", self._registry.delete_package, request)

    def sources(self, folder: str) -> list[Any]:
        """Return the objects under a gs:// folder; none where there is no such bucket."""
        bucket, _, prefix = folder.removeprefix("gs://").partition("/")
        return self._list(self._storage.list_blobs, bucket, prefix=prefix)

    def delete_sources(self, folder: str) -> None:
        """Delete what lies under a gs:// folder."""
        for blob in self.sources(folder):
            if self.dry_run:
                object_ = {"bucket": blob.bucket.name, "name": blob.name}
                self._would("storage.objects.delete", object_)
            else:
                self._read(blob.delete)

    @property
    def _repository(self) -> str:
        return f"{self.settings.location}/repositories/{self.settings.repository}"

    @functools.cached_property
    def _registry(self) -> Any:
        return self._client(ar.ArtifactRegistryClient)

    @functools.cached_property
    def _storage(self) -> Any:
        return storage.Client(project=self.settings.project, credentials=self._credentials)
