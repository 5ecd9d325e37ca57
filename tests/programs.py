"""What the tests need of this machine; they skip with the reason where it is missing."""

import shutil

import pytest

SOURCES = {
    "docker-registry": "Debian's package docker-registry",
    "gcloud": "https://cloud.google.com/sdk/docs/install",
    "gke-gcloud-auth-plugin": "gcloud components install gke-gcloud-auth-plugin",
    "prometheus": "Debian's package prometheus",
    "promtool": "Debian's package prometheus",
}
"""Where each program comes from."""


def needs(*programs: str) -> None:
    """Skip with the reason if a program is missing; REQUIRE_ALL makes that a failure."""
    for program in programs:
        if shutil.which(program) is None:
            pytest.skip(f"{program} is not installed: {SOURCES[program]}")
