"""The image: which one is meant, built where, pushed as what."""

import hashlib
import json
import os
import re
import subprocess
import zipfile
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from deploy import fingerprint as sources
from deploy.errors import UserError
from deploy.programs import Programs
from deploy.settings import Settings

if TYPE_CHECKING:
    from deploy.gcp import Google

ARCHIVE = Path(os.environ.get("ARCHIVE", "build/model-store/digits.mar"))
INPUTS = (
    "Dockerfile",
    "docker",
    "serving",
    "storage",
    "handler/__init__.py",
    "handler/envelope.py",
    "handler/errors.py",
    "requirements/serve.lock",
    "requirements/torch.lock",
    "requirements/sbom.lock",
    "LICENSE",
    "NOTICE",
)
"""What the Dockerfile copies, beside the archive."""
OVER = ("SUCCESS", "FAILURE", "INTERNAL_ERROR", "TIMEOUT", "CANCELLED", "EXPIRED")


@dataclass(frozen=True)
class Image:
    """An image in the registry."""

    uri: str
    """With its digest: HOST/PROJECT/REPOSITORY/NAME@sha256:…"""

    @property
    def digest(self) -> str:
        """sha256:…, or what stands after the tag's colon where the digest is not known."""
        return self.uri.rpartition("@")[2]

    @property
    def label(self) -> str:
        """The digest as a label's value: at most 63 of a-z, 0-9, _ and -."""
        return re.sub("[^a-z0-9_-]", "-", self.digest.lower())[:63]


def fingerprint(root: Path = Path()) -> str:
    """Return a tag that is the same as long as what goes into the image is: src- and 16 digits."""
    if not (root / ARCHIVE).is_file():
        raise UserError(f"{ARCHIVE} does not exist", "make archive")
    total = hashlib.sha256(os.environ.get("EXTRAS", "").encode())
    total.update(sources.fingerprint(root, INPUTS).encode())
    # Not the file itself: it holds the time of packing.
    with zipfile.ZipFile(root / ARCHIVE) as archive:
        for entry in sorted(archive.infolist(), key=lambda each: each.filename):
            if not entry.filename.endswith("MANIFEST.json"):
                digest = hashlib.sha256(archive.read(entry)).hexdigest()
                total.update(f"{entry.filename}\0{digest}\0".encode())
    return f"src-{total.hexdigest()[:16]}"


def commit() -> str:
    """Return git's commit, with -dirty where files differ from it; "" outside of a repository."""
    command = ["git", "describe", "--always", "--abbrev=40", "--dirty", "--exclude=*"]
    done = subprocess.run(command, capture_output=True, text=True, timeout=30, check=False)
    return done.stdout.strip() if done.returncode == 0 else ""


def find(google: "Google") -> Image | None:
    """Return the image that is meant, if it is in the registry."""
    s = google.settings
    if "@" in s.image:
        return Image(s.image)
    folder, slash, last = s.image.rpartition("/")  # before it, a host may have a port
    last, _, tag = last.partition(":")
    digest = None
    if not s.image or folder + slash + last == s.image_name:
        digest = google.digest(tag or "latest" if s.image else fingerprint())
    if digest:
        return Image(f"{s.image_name}@{digest}")
    return Image(s.image) if s.image else None


def build(google: "Google", serve: str | None) -> None:
    """Build and push the image, unless it is there; with `serve`, let Cloud Build go on with that command."""
    if serve:
        in_cloud(google, substitutions(google.settings, serve))
    else:
        ensure_image(google)


def ensure_image(google: "Google") -> Image:
    """Return the image that is meant, built and pushed if it is not in the registry yet."""
    if found := find(google):
        google.say(f"the image is there: {found.uri}")
        return found
    if google.settings.builder == "cloud":
        in_cloud(google, substitutions(google.settings))
    else:
        push(google)
    if google.dry_run:
        return Image(f"{google.settings.image_name}:{fingerprint()}")
    if found := find(google):
        return found
    raise UserError(
        "the image was built, but is not in the registry",
        "python -m deploy build, and read its log",
    )


def push(google: "Google") -> None:
    """Build with this machine's Docker, and push."""
    s, docker = google.settings, os.environ.get("DOCKER", "docker")
    tagged = f"{s.image_name}:{fingerprint()}"
    google.ensure_repository()
    if not s.registry:
        run(google, ["gcloud", "auth", "configure-docker", f"{s.region}-docker.pkg.dev", "--quiet"])
    run(google, ["make", "build", f"IMAGE={tagged}", f"DOCKER={docker}"], shown=True)
    for tag in (tagged, f"{s.image_name}:latest"):
        run(google, [docker, "tag", tagged, tag])
        run(google, [docker, "push", tag], shown=True)


def in_cloud(google: "Google", values: dict[str, str], config: str = "cloudbuild.yaml") -> None:
    """Have Cloud Build do what `config` says of this folder, and show its steps as they go."""
    s = google.settings
    google.ensure_repository()
    given = ",".join(f"{key}={value}" for key, value in values.items())
    command = [
        *("gcloud", "builds", "submit", "--async", "--format=json"),
        *_place(s),
        f"--gcs-source-staging-dir={staging(s)}",
        f"--config={config}",
        f"--substitutions={given}",
        ".",
    ]
    if s.build_service_account:
        account = f"projects/{s.project}/serviceAccounts/{s.build_service_account}"
        command.append(f"--service-account={account}")
    if google.dry_run:
        google.say(f"would run {' '.join(command)}")
        return
    build = _under_way(google, values)
    if build:
        google.say("→ waiting for the build of this very image that is under way")
    else:
        google.say("→ building with Cloud Build (usually 10 to 20 minutes)")
        build = json.loads(run(google, command))
    _watch(google, build)


def _under_way(google: "Google", values: dict[str, str]) -> dict[str, Any]:
    """Return the build that somebody began for the same, if it has not ended; {} where there is none."""
    command = ["gcloud", "builds", "list", "--ongoing", "--format=json"]
    for each in json.loads(run(google, [*command, *_place(google.settings)])):
        if each.get("substitutions", {}).items() >= values.items():
            return dict(each)
    return {}


def _watch(google: "Google", build: dict[str, Any]) -> None:
    """Show a build's steps until it ends; raise Stop where it fails."""
    there = [build["id"], *_place(google.settings)]
    google.say(f"  build {build['id']}, its log: {build.get('logUrl', '')}")
    shown: dict[str, str] = {}

    def look() -> dict[str, Any]:
        described = run(google, ["gcloud", "builds", "describe", "--format=json", *there])
        found: dict[str, Any] = json.loads(described)
        for step in found.get("steps", []):
            name, status = step.get("id", step["name"]), step.get("status", "QUEUED")
            if shown.get(name, "QUEUED") != status:
                shown[name] = status
                google.say(f"  {status.lower():8} {name}")
        return found

    still = UserError("Cloud Build is still at it", "the same command again goes on watching it")
    build = google.poll(look, lambda build: build.get("status") in OVER, still)
    if build["status"] != "SUCCESS":
        detail = build.get("statusDetail") or build.get("failureInfo", {}).get("detail", "")
        raise UserError(
            f"Cloud Build ended with {build['status']}{f': {detail}' if detail else ''}",
            f"gcloud builds log {' '.join(there)}",
        )


def _place(settings: Settings) -> list[str]:
    return [f"--project={settings.project}", f"--region={settings.region}"]


def staging(settings: Settings) -> str:
    """Return where sources for Cloud Build are put."""
    return f"gs://{settings.project}_cloudbuild/{settings.name}-source"


def substitutions(settings: Settings, deploy: str = "no") -> dict[str, str]:
    """Return what cloudbuild.yaml needs to know."""
    found = {
        "_NAME": settings.name,
        "_REGION": settings.region,
        "_REPOSITORY": settings.repository,
        "_TAG": fingerprint(),
        "_DEPLOY": deploy,
        "_REVISION": commit(),
    }
    if settings.registry:
        found["_REGISTRY"] = settings.registry
    return found


def run(google: "Google", command: list[str], *, shown: bool = False) -> str:
    """Run a program and return what it prints, or let it print (`shown`); raise Stop where it fails."""
    limit_s = google.settings.wait_minutes * 60
    return Programs(google.say, google.dry_run, limit_s).run(command, shown=shown)
