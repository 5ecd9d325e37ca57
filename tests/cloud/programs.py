"""What the tests need of this machine, and who says so when it is missing."""

import os
import shutil

import pytest

WHERE = {
    "docker-registry": "Debian's package docker-registry",
    "gke-gcloud-auth-plugin": "gcloud components install gke-gcloud-auth-plugin",
    "gcloud": "https://cloud.google.com/sdk/docs/install",
}


def needs(*programs: str) -> None:
    """Skip with the reason where a program is missing; fail where REQUIRE_GCLOUD is set."""
    for program in programs:
        if shutil.which(program) is None:
            reason = f"{program} is not on this machine: {WHERE[program]}"
            if os.environ.get("REQUIRE_GCLOUD"):
                pytest.fail(reason)
            pytest.skip(reason)
