"""Builds with this machine's Docker."""

import os
import platform

from deploy.clients import CloudClients
from deploy.errors import UserError
from deploy.fingerprint import image_tag

ARCHITECTURE = "amd64"
"""Of Vertex AI's machines."""
NAMES = ("x86_64", ARCHITECTURE)
"""How systems name it."""


def build_and_push(cloud: CloudClients) -> None:
    """Build the image, and push it under its fingerprint and as latest, or as gpu if it is for GPUs."""
    s, docker, run = cloud.settings, os.environ.get("DOCKER", "docker"), cloud.programs.run
    tagged = f"{s.image_name}:{image_tag(s.sources, s.torch_build)}"
    cloud.artifacts.ensure_repository()
    if not s.registry:
        run(["gcloud", "auth", "configure-docker", f"{s.region}-docker.pkg.dev", "--quiet"])
    variables = [f"MODEL={s.sources.path}", f"IMAGE={tagged}", f"DOCKER={docker}"]
    variables += [f"GPU={'1' if s.torch_build.is_gpu else ''}"]
    variables += [f"TORCH={s.torch_build.version}", f"TORCH_INDEX={s.torch_build.index_url}"]
    command = ["make", "build", *variables]
    if platform.machine().lower() not in NAMES:  # docker build follows this variable
        command.append(f"DOCKER_DEFAULT_PLATFORM=linux/{ARCHITECTURE}")
    run(command, show_output=True)
    built_for = run([docker, "image", "inspect", "--format={{.Architecture}}", tagged]).strip()
    if built_for not in (ARCHITECTURE, ""):  # "": a dry run
        hint = f'DOCKER_DEFAULT_PLATFORM=linux/{ARCHITECTURE} make push, or builder = "cloud"'
        raise UserError(f"{tagged} is for {built_for}, but Vertex AI runs {ARCHITECTURE}", hint)
    for tag in (tagged, f"{s.image_name}:{'gpu' if s.torch_build.is_gpu else 'latest'}"):
        run([docker, "tag", tagged, tag])
        run([docker, "push", tag], show_output=True)
