"""The image of a deployment: found in the registry, or built and pushed."""

from deploy import builder
from deploy.clients import CloudClients
from deploy.cloud_build import build_image
from deploy.errors import UserError
from deploy.fingerprint import image_tag
from deploy.local_build import build_and_push
from deploy.registry import Image, find_image


def build(cloud: CloudClients, serve: str | None) -> None:
    """Build and push the image unless it exists; with `serve`, Cloud Build runs that command afterwards."""
    if serve:
        build_image(cloud, serve)
    else:
        ensure_image(cloud)


def ensure_image(cloud: CloudClients) -> Image:
    """Return the image of the settings or the sources; build and push it if it is not in the registry."""
    if found := find_image(cloud):
        cloud.report(f"the image is in the registry: {found.uri}")
        return found
    tag = image_tag(cloud.settings.sources, cloud.settings.torch_build)
    if builder.choose(cloud) == "cloud":
        build_image(cloud)
    else:
        build_and_push(cloud)
    if cloud.dry_run:
        return Image(f"{cloud.settings.image_name}:{tag}")
    if found := find_image(cloud):
        return found
    if image_tag(cloud.settings.sources, cloud.settings.torch_build) != tag:
        hint = "run the same command again, and change no file of the repository or the model until it ends"
        raise UserError("files changed while the image was built, so it is not deployed", hint)
    hint = "run make push, and read the build's log"
    raise UserError("the build succeeded, but the image is not in the registry", hint)
