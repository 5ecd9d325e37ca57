"""Builds with this machine's Docker."""

import os

from deploy.clients import CloudClients
from deploy.fingerprint import image_tag


def build_and_push(cloud: CloudClients) -> None:
    """Build the image, and push it under its fingerprint and as latest."""
    s, docker, run = cloud.settings, os.environ.get("DOCKER", "docker"), cloud.programs.run
    tagged = f"{s.image_name}:{image_tag(s.sources)}"
    cloud.artifacts.ensure_repository()
    if not s.registry:
        run(["gcloud", "auth", "configure-docker", f"{s.region}-docker.pkg.dev", "--quiet"])
    model = f"MODEL={s.sources.path}"
    run(["make", "build", model, f"IMAGE={tagged}", f"DOCKER={docker}"], show_output=True)
    for tag in (tagged, f"{s.image_name}:latest"):
        run([docker, "tag", tagged, tag])
        run([docker, "push", tag], show_output=True)
