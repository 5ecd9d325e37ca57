"""Images in Artifact Registry."""

import re
from dataclasses import dataclass

from deploy.clients import CloudClients
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
    """Return the image of the settings, or else of the sources; None if it is not in the registry.

    An image in a repository other than that of the settings is returned without a look-up.
    """
    s = cloud.settings
    if "@" in s.image:
        return Image(s.image)
    folder, slash, last = s.image.rpartition("/")  # the host before it may have a port
    last, _, tag = last.partition(":")
    digest = None
    if not s.image or folder + slash + last == s.image_name:
        digest = cloud.artifacts.find_digest(
            tag or "latest" if s.image else image_tag(s.sources, s.torch_build)
        )
    if digest:
        return Image(f"{s.image_name}@{digest}")
    return Image(s.image) if s.image else None
