"""Artifact Registry: repositories and packages. The images are in a real registry beside the emulator."""

import requests
from google.cloud import artifactregistry_v1 as ar
from google.longrunning.operations_pb2 import Operation
from google.protobuf.empty_pb2 import Empty

from emulator import operations, processes
from emulator.errors import ApiError, not_found
from emulator.resources import Method, ResourceType, location_path
from emulator.state import State, canonical_name, get_region, now

MANIFESTS = "application/vnd.docker.distribution.manifest.v2+json, application/vnd.oci.image.manifest.v1+json"
TIMEOUT_S = 30


class RepositoryType(ResourceType):
    """Repositories. A repository is deleted with its images."""

    metadata = ar.OperationMetadata

    def delete(self, state: State, request: ar.DeleteRepositoryRequest) -> Operation:
        """Delete a repository's images, and start to delete the repository."""
        repository = self.get(state, request)
        for package in _packages(state, repository.name):
            _delete_images(state, repository.name, package)
        return super().delete(state, request)


REPOSITORIES = RepositoryType(
    "Repository", lambda state: state.repositories, ar.ListRepositoriesResponse
)


def create(state: State, request: ar.CreateRepositoryRequest) -> Operation:
    """Start to create a repository."""
    name = f"{canonical_name(request.parent)}/repositories/{request.repository_id}"
    if name in state.repositories:
        raise ApiError("ALREADY_EXISTS", "the repository already exists")
    repository = ar.Repository(request.repository)
    repository.name = f"{request.parent}/repositories/{request.repository_id}"

    def work(_: operations.Operation) -> ar.Repository:
        repository.create_time = repository.update_time = now()
        state.repositories[name] = repository
        return repository

    location = location_path(name)
    return operations.start(state, location, "CreateRepository", work, ar.OperationMetadata())


def list_packages(state: State, request: ar.ListPackagesRequest) -> ar.ListPackagesResponse:
    """Return the packages of a repository: one per image name."""
    repository = REPOSITORIES.find(state, request.parent)
    names = [f"{repository.name}/packages/{name}" for name in _packages(state, repository.name)]
    return ar.ListPackagesResponse(packages=[ar.Package(name=name) for name in names])


def list_images(state: State, request: ar.ListDockerImagesRequest) -> ar.ListDockerImagesResponse:
    """Return the images of a repository: one per digest, with its tags and its size in bytes."""
    repository = REPOSITORIES.find(state, request.parent)
    host, path = f"{get_region(repository.name)}-docker.pkg.dev", _registry_path(repository.name)
    images: dict[str, ar.DockerImage] = {}
    for package in _packages(state, repository.name):
        for tag in _tags(state, f"{path}/{package}"):
            response = _request(state, "GET", f"{path}/{package}/manifests/{tag}", Accept=MANIFESTS)
            layers = response.json().get("layers", [])
            name = f"{package}@{response.headers['Docker-Content-Digest']}"
            image = images.setdefault(
                name,
                ar.DockerImage(
                    name=f"{repository.name}/dockerImages/{name}",
                    uri=f"{host}/{path}/{name}",
                    media_type=response.headers["Content-Type"],
                    image_size_bytes=sum(layer["size"] for layer in layers),
                ),
            )
            image.tags = [*image.tags, tag]
    return ar.ListDockerImagesResponse(docker_images=list(images.values()))


def delete_package(state: State, request: ar.DeletePackageRequest) -> Operation:
    """Start to delete every version of a package."""
    repository_name, _, package = request.name.partition("/packages/")
    repository = REPOSITORIES.find(state, repository_name)
    if package not in _packages(state, repository.name):
        raise not_found("Package", request.name)

    def work(_: operations.Operation) -> Empty:
        _delete_images(state, repository.name, package)
        return Empty()

    location = location_path(request.name)
    return operations.start(state, location, "DeletePackage", work, ar.OperationMetadata())


def _registry_path(name: str) -> str:
    """Return the path of a repository's images in the registry: PROJECT/REPOSITORY."""
    return f"{name.split('/')[1]}/{name.rsplit('/', 1)[-1]}"


def _packages(state: State, name: str) -> list[str]:
    """Return a repository's image names. The registry's catalog keeps names of deleted images."""
    prefix = _registry_path(name) + "/"
    catalog = _request(state, "GET", "_catalog?n=1000").json()["repositories"]
    paths = [path for path in catalog if path.startswith(prefix) and _tags(state, path)]
    return [path.removeprefix(prefix) for path in paths]


def _tags(state: State, path: str) -> list[str]:
    response = _request(state, "GET", f"{path}/tags/list")
    return (response.json().get("tags") or []) if response.ok else []


def _delete_images(state: State, name: str, package: str) -> None:
    path = f"{_registry_path(name)}/{package}"
    for tag in _tags(state, path):
        response = _request(state, "HEAD", f"{path}/manifests/{tag}", Accept=MANIFESTS)
        if response.ok:
            digest = response.headers["Docker-Content-Digest"]
            _request(state, "DELETE", f"{path}/manifests/{digest}")


def _request(state: State, verb: str, path: str, **headers: str) -> requests.Response:
    url = f"http://{state.config.registry}/v2/{path}"
    return processes.send_request(verb, url, TIMEOUT_S, headers=headers)


METHODS: dict[str, Method] = {
    "CreateRepository": create,
    "GetRepository": REPOSITORIES.get,
    "ListRepositories": REPOSITORIES.list,
    "DeleteRepository": REPOSITORIES.delete,
    "ListPackages": list_packages,
    "ListDockerImages": list_images,
    "DeletePackage": delete_package,
}
