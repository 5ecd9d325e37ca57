"""Images and containers of the local Docker engine."""

import logging
import re
from collections.abc import Iterable

from contract.docker import Docker, DockerError
from emulator.config import EmulatorConfig
from emulator.errors import ApiError, invalid_argument

ARTIFACT_REGISTRY = re.compile(r"^([a-z]+-[a-z]+[0-9]+|us|europe|asia)-docker\.pkg\.dev/")
log = logging.getLogger("emulator")


def pull_image(config: EmulatorConfig, image: str) -> None:
    """Pull an image from the registry, or check that it exists locally; raise ApiError if not found."""
    name = local_image(config, image)
    try:
        if config.registry and name.startswith(f"{config.registry}/"):
            config.engine("pull", "--quiet", name, timeout_s=600)
        else:
            config.engine("image", "inspect", name)
    except DockerError as error:
        log.info("%s: %s", image, error)
        raise ApiError("NOT_FOUND", f"Image {image} not found.") from None


def check_region(image: str, region: str) -> None:
    """Raise ApiError if an image is in Artifact Registry, but not in the region of its model."""
    found = ARTIFACT_REGISTRY.match(image)
    if found and found[1] != region:
        raise invalid_argument(
            f"Image {image} is in {found[1]}: a model in {region} needs an image in the same region."
        )


def local_image(config: EmulatorConfig, image: str) -> str:
    """Return the local name of an image: Artifact Registry's host becomes the local registry's."""
    name = ARTIFACT_REGISTRY.sub(f"{config.registry}/", image) if config.registry else image
    return config.images.get(name, name)


def image_names(docker: Docker) -> set[str]:
    """Return the names of the local images, with their tags."""
    return set(docker("images", "--format", "{{.Repository}}:{{.Tag}}").split())


def remove(docker: Docker, filter_: str) -> None:
    """Remove every container that matches a filter of docker ps."""
    if ids := docker("ps", "--all", "--quiet", "--filter", filter_).split():
        docker("rm", "--force", "--volumes", *ids)


def remove_with_images(docker: Docker, names: Iterable[str]) -> None:
    """Remove images that still exist, and every container of theirs."""
    existing = sorted(set(names) & image_names(docker))
    for name in existing:
        remove(docker, f"ancestor={name}")
    if existing:
        docker("rmi", "--force", *existing)
