"""Where the deployment is, and what it is called."""

from typing import Annotated

from pydantic import Field

from deploy.fields.types import HOST, PROJECT, Group, Labels, Region, matching
from project.model_folder import DEFAULT


class Location(Group):
    """Where the deployment is, and its name."""

    project: Annotated[
        str, matching(PROJECT, "a project ID: 6 to 30 lowercase letters, digits and hyphens")
    ] = ""
    """project ID"""
    region: Region = "us-central1"
    """region of the endpoint, the model and the images"""
    name: Annotated[
        str,
        matching(
            "[a-z][a-z0-9-]{0,61}[a-z0-9]",
            "2 to 63 lowercase letters, digits and hyphens, a letter first and no hyphen last",
        ),
    ] = DEFAULT
    """name of the model, the endpoint and the image"""
    labels: Labels = Field(default_factory=dict)
    """labels of the endpoint, the model, its batch jobs and the repository: the table [labels] in deploy.toml"""
    kms_key: Annotated[
        str,
        matching(
            r"projects/[^/\s]+/locations/[a-z0-9-]+/keyRings/[\w-]{1,63}/cryptoKeys/[\w-]{1,63}|",
            "projects/PROJECT/locations/REGION/keyRings/RING/cryptoKeys/KEY",
        ),
    ] = ""
    """key in Cloud KMS that encrypts the endpoint, the model and batch jobs; empty: a key of Google's"""
    wait_minutes: Annotated[int, Field(ge=1, le=600)] = 60
    """minutes to wait for an operation; afterwards it continues at Google"""
    api_endpoint: Annotated[
        str, matching(rf"https?://({HOST})|", "http://HOST:PORT, without a path")
    ] = ""
    """http://host:port of the emulator; empty: Google"""
