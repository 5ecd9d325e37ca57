"""What the tests need of this machine, and who says so when it is missing."""

import os
import shutil

import pytest

WHERE = {
    "docker-registry": ("Debian's package docker-registry", "REQUIRE_GCLOUD"),
    "gcloud": ("https://cloud.google.com/sdk/docs/install", "REQUIRE_GCLOUD"),
    "gke-gcloud-auth-plugin": ("gcloud components install gke-gcloud-auth-plugin", "REQUIRE_GKE"),
    "prometheus": ("Debian's package prometheus", "REQUIRE_PROMETHEUS"),
    "promtool": ("Debian's package prometheus", "REQUIRE_PROMETHEUS"),
}
"""Where a program comes from, and the variable that says that it must be there."""


def needs(*programs: str) -> None:
    """Skip with the reason where a program is missing; fail where its variable is set."""
    for program in programs:
        if shutil.which(program) is None:
            where, required = WHERE[program]
            reason = f"{program} is not on this machine: {where}"
            if os.environ.get(required):
                pytest.fail(reason)
            pytest.skip(reason)
