"""The model's versions: the one that is meant, uploaded where it is not there yet."""

import re

from deploy.errors import Lost, Stop
from deploy.google import Google, Version, container, written
from deploy.image import Image, commit, ensure
from deploy.reach import PATIENCE


def upload(google: Google, image: Image | None = None) -> str:
    """Return the version of the image that is meant, uploaded as a new one where there is none."""
    image = image or ensure(google)
    for _ in range(PATIENCE):
        for operation in google.pending(google.settings.model):
            google.wait(operation, "waiting for an upload that is under way")
        known = google.versions()
        if same := matching(google, known, image):
            google.say(f"version {same.number} is this image")
            return same.number
        try:
            google.upload(image.uri, labels(image), aliases(), parent=bool(known))
            if google.dry_run:
                return str(int(known[0].number) + 1) if known else "1"
        except Lost as lost:
            google.say(f"  {lost}; looking again")
    raise Stop("the upload does not come about", "run the same command again")


def matching(google: Google, known: list[Version], image: Image) -> Version | None:
    """Return the version that would be uploaded, were it not there."""
    wanted = written(container(google.settings, image.uri))
    return next(
        (
            v
            for v in known
            if v.container == wanted and v.artifact_uri == google.settings.artifact_uri
        ),
        None,
    )


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
