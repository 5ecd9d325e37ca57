"""Images in Artifact Registry."""

import re
from dataclasses import dataclass

from deploy.clients import CloudClients
from deploy.errors import PermissionDeniedError, UserError
from deploy.fingerprint import image_tag


@dataclass(frozen=True)
class Image:
    """An image in the registry."""

    uri: str
    """With its digest: HOST/PROJECT/REPOSITORY/NAME@sha256:…"""

    @property
    def digest(self) -> str:
        """sha256:…; the whole URI if it has no digest."""
        return self.uri.rpartition("@")[2]

    @property
    def label(self) -> str:
        """The digest as a label's value: at most 63 of a-z, 0-9, _ and -."""
        return re.sub("[^a-z0-9_-]", "-", self.digest.lower())[:63]


def find_image(cloud: CloudClients) -> Image | None:
    """Return the image of the settings, or else of the sources; None if the latter is not in the registry.

    Raises UserError if the tag in the settings is not found. A digest, and an image that this caller may not read,
    is returned as it is: Vertex AI pulls it with an account of its own.
    """
    s = cloud.settings
    if not s.image:
        digest = cloud.artifacts.find_digest(image_tag(s.sources, s.torch_build))
        return Image(f"{s.image_name}@{digest}") if digest else None
    folder, slash, last = s.image.rpartition("/")  # the host before it may have a port
    last, _, tag = last.partition(":")
    name = folder + slash + last
    if "@" in s.image or not name.startswith(f"{s.image_name.partition('/')[0]}/"):
        return Image(s.image)  # by its digest, or in another registry
    try:
        found = cloud.artifacts.find_digest(tag or "latest", name)
    except PermissionDeniedError as error:
        cloud.report(f"the image {s.image} is not checked: {error.message}")
        return Image(s.image)
    if found is None:
        hint = "make push pushes the image of the current sources; without the setting image that one is deployed"
        raise UserError(f"image not found: {s.image}", hint)
    return Image(f"{name}@{found}")
