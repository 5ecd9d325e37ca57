"""Chooses where an image is built: with this machine's Docker, or with Cloud Build."""

import json
import os
import shutil
import subprocess

from deploy.clients import CloudClients
from deploy.cost import BUILD_USD_PER_MINUTE

PLATFORM = "linux", "amd64"
"""The operating system and architecture of Vertex AI's machines."""
TIMEOUT_S = 10
CLOUD_BUILD = f"usually 10 to 20 minutes at ${BUILD_USD_PER_MINUTE} each"


def choose(cloud: CloudClients) -> str:
    """Return "local" or "cloud": the setting, or of the setting "auto" what this machine can do."""
    setting = cloud.settings.builder
    return setting if setting != "auto" else "local" if has_engine() else "cloud"


def describe(cloud: CloudClients) -> str:
    """Return how the image is built, how long that takes, and its price."""
    if choose(cloud) == "local":
        return "this machine's Docker, minutes"
    return f"Cloud Build, {CLOUD_BUILD}"


def has_engine() -> bool:
    """Return whether a Docker engine runs that builds images for Vertex AI without emulating a processor."""
    docker = os.environ.get("DOCKER", "docker")
    if shutil.which(docker) is None:
        return False
    command = [docker, "version", "--format", "{{json .Server}}"]
    try:
        done = subprocess.run(
            command, capture_output=True, text=True, timeout=TIMEOUT_S, check=False
        )
        engine = json.loads(done.stdout) or {}
    except (subprocess.TimeoutExpired, ValueError):
        return False
    return (engine.get("Os"), engine.get("Arch")) == PLATFORM
