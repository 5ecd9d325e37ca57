"""Artifact Registry's repositories and packages; the images lie in a real registry beside it."""

from typing import Any

import requests
from google.cloud import artifactregistry_v1 as ar
from google.longrunning.operations_pb2 import Operation
from google.protobuf.empty_pb2 import Empty

from emulator import operations, processes
from emulator.errors import ApiError, not_found
from emulator.resources import Kind, place
from emulator.state import State, canonical_name, location, now

MANIFESTS = "application/vnd.docker.distribution.manifest.v2+json, application/vnd.oci.image.manifest.v1+json"


class Repositories(Kind):
    """Repositories; their images go with them."""

    metadata = ar.OperationMetadata

    def delete(self, state: State, request: ar.DeleteRepositoryRequest) -> Operation:
        """Delete a repository."""
        repository = self.get(state, request)
        for package in _packages(state, repository.name):
            _empty(state, repository.name, package)
        return super().delete(state, request)


def create(state: State, request: ar.CreateRepositoryRequest) -> Operation:
    """Begin a repository."""
    name = f"{canonical_name(request.parent)}/repositories/{request.repository_id}"
    if name in state.repositories:
        raise ApiError("ALREADY_EXISTS", "the repository already exists")
    repository = ar.Repository(request.repository)
    repository.name = f"{request.parent}/repositories/{request.repository_id}"

    def work(_: operations.Operation) -> ar.Repository:
        repository.create_time = repository.update_time = now()
        state.repositories[name] = repository
        return repository

    return operations.start(state, place(name), "CreateRepository", work, ar.OperationMetadata())


def list_packages(state: State, request: ar.ListPackagesRequest) -> ar.ListPackagesResponse:
    """Return the names of a repository's images."""
    repository = KIND.find(state, request.parent)
    names = [f"{repository.name}/packages/{name}" for name in _packages(state, repository.name)]
    return ar.ListPackagesResponse(packages=[ar.Package(name=name) for name in names])


def list_images(state: State, request: ar.ListDockerImagesRequest) -> ar.ListDockerImagesResponse:
    """Return a repository's images, one for each digest, with its tags and its size in bytes."""
    repository = KIND.find(state, request.parent)
    host, folder = f"{location(repository.name)}-docker.pkg.dev", _folder(repository.name)
    found: dict[str, ar.DockerImage] = {}
    for package in _packages(state, repository.name):
        for tag in _tags(state, f"{folder}/{package}"):
            reply = _ask(state, "GET", f"{folder}/{package}/manifests/{tag}", Accept=MANIFESTS)
            name = f"{package}@{reply.headers['Docker-Content-Digest']}"
            image = found.setdefault(
                name,
                ar.DockerImage(
                    name=f"{repository.name}/dockerImages/{name}",
                    uri=f"{host}/{folder}/{name}",
                    media_type=reply.headers["Content-Type"],
                    image_size_bytes=sum(layer["size"] for layer in reply.json().get("layers", [])),
                ),
            )
            image.tags = [*image.tags, tag]
    return ar.ListDockerImagesResponse(docker_images=list(found.values()))


def delete_package(state: State, request: ar.DeletePackageRequest) -> Operation:
    """Delete every version of one image."""
    repository, _, package = request.name.partition("/packages/")
    found = KIND.find(state, repository)
    if package not in _packages(state, found.name):
        raise not_found("Package", request.name)

    def work(_: operations.Operation) -> Empty:
        _empty(state, found.name, package)
        return Empty()

    where = place(request.name)
    return operations.start(state, where, "DeletePackage", work, ar.OperationMetadata())


def _folder(name: str) -> str:
    """Return where a repository's images lie in the registry: PROJECT/REPOSITORY."""
    return f"{name.split('/')[1]}/{name.rsplit('/', 1)[-1]}"


def _packages(state: State, name: str) -> list[str]:
    folder = _folder(name) + "/"
    found = _ask(state, "GET", "_catalog?n=1000").json()["repositories"]
    named = [each.removeprefix(folder) for each in found if each.startswith(folder)]
    return [each for each in named if _tags(state, folder + each)]


def _tags(state: State, path: str) -> list[str]:
    reply = _ask(state, "GET", f"{path}/tags/list")
    return (reply.json().get("tags") or []) if reply.ok else []


def _empty(state: State, name: str, package: str) -> None:
    path = f"{_folder(name)}/{package}"
    for tag in _tags(state, path):
        reply = _ask(state, "HEAD", f"{path}/manifests/{tag}", Accept=MANIFESTS)
        if reply.ok:
            _ask(state, "DELETE", f"{path}/manifests/{reply.headers['Docker-Content-Digest']}")


def _ask(state: State, verb: str, path: str, **headers: Any) -> requests.Response:
    return processes.send_request(
        verb, f"http://{state.config.registry}/v2/{path}", 30, headers=headers
    )


KIND = Repositories("Repository", lambda state: state.repositories, ar.ListRepositoriesResponse)
METHODS = {
    "CreateRepository": create,
    "GetRepository": KIND.get,
    "ListRepositories": KIND.list,
    "DeleteRepository": KIND.delete,
    "ListPackages": list_packages,
    "ListDockerImages": list_images,
    "DeletePackage": delete_package,
}
