"""The model's versions: the one that is meant, uploaded where it is not there yet."""

import re
from typing import TYPE_CHECKING

from deploy.errors import UserError
from deploy.image import Image, commit, ensure_image

if TYPE_CHECKING:
    from deploy.gcp import Google


def upload(google: "Google") -> None:
    """Register the image that is meant, and print its version."""
    print(ensure_uploaded(google))


def chosen(google: "Google", version: str) -> str:
    """Return the version that is named, or that of the image that is meant; raise Stop."""
    if not version:
        return ensure_uploaded(google)
    if version not in [each.version_id for each in google.versions()]:
        missing = f"there is no version {version} of {google.settings.name}"
        raise UserError(missing, "python -m deploy status")
    return version


def ensure_uploaded(google: "Google") -> str:
    """Return the version of the image that is meant, uploaded as a new one where there is none."""
    image = ensure_image(google)

    def look() -> str:
        for operation in google.pending(google.settings.model):
            google.wait(operation, "waiting for an upload that is under way")
        known = google.versions()
        same = google.version_of(image.uri, known)
        if not same:
            google.upload(image.uri, labels(image), aliases(), parent=bool(known))
            if google.dry_run:
                return str(int(known[0].version_id) + 1) if known else "1"
            same = google.version_of(image.uri, google.versions())
        if not same:
            raise UserError("the upload does not come about", "run the same command again")
        google.say(f"version {same} is this image")
        return same

    return google.until_made(look)


def labels(image: Image) -> dict[str, str]:
    """Return where a version comes from."""
    found = {"image-digest": image.label}
    if here := commit():
        found["git-commit"] = here[:63]
    return found


def aliases() -> list[str]:
    """Return the names of a version beside its number: its commit."""
    here = commit()
    name = f"git-{here[:7]}{'-dirty' if here.endswith('-dirty') else ''}"
    return [name] if re.fullmatch("git-[0-9a-f]{7}(-dirty)?", name) else []
