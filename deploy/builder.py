"""Chooses where an image is built: with this machine's Docker, or with Cloud Build."""

import functools
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
    if setting != "auto":
        return setting
    return "local" if has_engine(os.environ.get("DOCKER", "docker")) else "cloud"


def describe(cloud: CloudClients) -> str:
    """Return how the image is built, how long that takes, and its price."""
    if choose(cloud) == "local":
        return "this machine's Docker, minutes"
    return f"Cloud Build, {CLOUD_BUILD}"


@functools.cache
def has_engine(docker: str) -> bool:
    """Return whether Docker with BuildKit runs here, with an engine of Vertex AI's platform.

    Another processor would be emulated, which takes longer than Cloud Build.
    """
    if shutil.which(docker) is None:
        return False
    environ = {**os.environ, "DOCKER_BUILDKIT": "1"}

    def run(*arguments: str) -> subprocess.CompletedProcess[str]:
        command = [docker, *arguments]
        return subprocess.run(
            command, capture_output=True, text=True, timeout=TIMEOUT_S, check=False, env=environ
        )

    try:
        engine = json.loads(run("version", "--format", "{{json .Server}}").stdout) or {}
        if (engine.get("Os"), engine.get("Arch")) != PLATFORM:
            return False
        # Since version 23 BuildKit needs the component buildx; without it, even the help is an error.
        return run("build", "--help").returncode == 0
    except (subprocess.TimeoutExpired, ValueError):
        return False
