"""Versions of the model on Vertex AI: found, or uploaded."""

import re

from deploy.clients import CloudClients
from deploy.errors import PermissionDeniedError, UserError
from deploy.fingerprint import git_commit
from deploy.image import ensure_image
from deploy.registry import Image
from deploy.schemata import upload_schemata


def upload(cloud: CloudClients) -> None:
    """Upload the image as a version unless it is one, and print the version."""
    print(ensure_uploaded(cloud))


def choose(cloud: CloudClients, version: str) -> str:
    """Return `version` if it exists, else raise UserError; if it is empty, return the image's version."""
    if not version:
        return ensure_uploaded(cloud)
    if version not in [existing.version_id for existing in cloud.vertex.versions()]:
        missing = f"version {version} of {cloud.settings.name} does not exist"
        raise UserError(missing, "make status")
    return version


def ensure_uploaded(cloud: CloudClients) -> str:
    """Return the version of the image; build and upload it if it does not exist."""
    _check_artifacts(cloud)
    image, vertex = ensure_image(cloud), cloud.vertex

    def attempt() -> str:
        for operation in vertex.pending_operations(cloud.settings.model):
            vertex.wait(operation, "waiting for a pending upload")
        versions = vertex.versions()
        version = vertex.find_version(image.uri, versions)
        if not version:
            vertex.upload_model(
                image.uri,
                _build_labels(image),
                _build_aliases(),
                upload_schemata(cloud),
                is_new=not versions,
            )
            if cloud.dry_run:
                return str(int(versions[0].version_id) + 1) if versions else "1"
            version = vertex.find_version(image.uri, vertex.versions())
        if not version:
            raise UserError("the uploaded version was not found", "run the same command again")
        cloud.report(f"the image is version {version}")
        return version

    return cloud.client.retry_transient(attempt)


def _check_artifacts(cloud: CloudClients) -> None:
    """Raise UserError if the bucket of the artifacts does not exist: only the deployment would find that."""
    uri, region = cloud.settings.artifact_uri, cloud.settings.region
    if not uri:
        return
    bucket = "/".join(uri.split("/")[:3])
    try:
        exists = cloud.storage.find_prefix(bucket) is not None
    except PermissionDeniedError as error:
        cloud.report(f"{bucket} is not checked: {error.message}")
        return
    if not exists:
        hint = f"fix artifact_uri, or: gcloud storage buckets create {bucket} --location={region}"
        raise UserError(f"artifact_uri = {uri!r}: the bucket {bucket} does not exist", hint)


def _build_labels(image: Image) -> dict[str, str]:
    """Return a version's labels: the digest of its image and the commit of its sources."""
    commit = git_commit()
    return {"image-digest": image.label, **({"git-commit": commit[:63]} if commit else {})}


def _build_aliases() -> list[str]:
    """Return a version's aliases: git- and the commit of its sources."""
    commit = git_commit()
    alias = f"git-{commit[:7]}{'-dirty' if commit.endswith('-dirty') else ''}"
    return [alias] if re.fullmatch("git-[0-9a-f]{7}(-dirty)?", alias) else []
