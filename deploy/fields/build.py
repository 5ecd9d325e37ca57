"""Where the image is, and how it is built."""

from typing import Annotated, Literal

from deploy.fields.types import HOST, RESOURCE_ID, Account, Group, matching


class Build(Group):
    """Where the image is, and how it is built."""

    image: Annotated[
        str,
        matching(
            r"[a-z0-9][a-z0-9._:/-]*[a-z0-9](:[\w][\w.-]{0,127})?(@sha256:[0-9a-f]{64})?|",
            "HOST/PROJECT/REPOSITORY/NAME, with :TAG or @sha256:DIGEST",
        ),
    ] = ""
    """image in Artifact Registry; empty: the image of the current sources"""
    repository: Annotated[
        str,
        matching(
            RESOURCE_ID,
            "at most 63 lowercase letters, digits and hyphens, a letter first and no hyphen last",
        ),
    ] = "models"
    """repository in Artifact Registry"""
    registry: Annotated[str, matching(rf"{HOST}|", "HOST or HOST:PORT, without https://")] = ""
    """registry host; empty: REGION-docker.pkg.dev"""
    builder: Literal["auto", "cloud", "local"] = "auto"
    """where images are built: cloud (Cloud Build), local (this machine's Docker), auto (local if it can)"""
    torch: Annotated[str, matching(r"torch==[\w.+!-]+|", "torch==VERSION")] = ""
    """another torch than the locked one, such as torch==2.13.0+cu126 for the driver of older machines"""
    torch_index: Annotated[str, matching(r"https://[^\s,]+|", "a package index, https://…")] = ""
    """index of that torch"""
    build_service_account: Account = ""
    """service account of Cloud Build; empty: the project's default"""
