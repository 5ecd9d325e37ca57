"""The permissions that commands need, the least privileged roles that grant them, and the commands that grant roles."""

import re
import shlex
from typing import NamedTuple

from deploy.fields.types import BUCKET

ROLES = {
    "aiplatform.": "roles/aiplatform.user",
    "artifactregistry.packages.delete": "roles/artifactregistry.repoAdmin",
    "artifactregistry.repositories.create": "roles/artifactregistry.admin",
    "artifactregistry.repositories.deleteArtifacts": "roles/artifactregistry.repoAdmin",
    "artifactregistry.repositories.downloadArtifacts": "roles/artifactregistry.reader",
    "artifactregistry.repositories.get": "roles/artifactregistry.reader",
    "artifactregistry.repositories.uploadArtifacts": "roles/artifactregistry.writer",
    "bigquery.datasets.create": "roles/bigquery.user",
    "bigquery.jobs.create": "roles/bigquery.jobUser",
    "bigquery.": "roles/bigquery.dataEditor",
    "cloudbuild.builds.": "roles/cloudbuild.builds.editor",
    "cloudkms.cryptoKeyVersions.": "roles/cloudkms.cryptoKeyEncrypterDecrypter",
    "compute.": "roles/compute.networkUser",
    "iam.serviceAccounts.actAs": "roles/iam.serviceAccountUser",
    "monitoring.timeSeries.list": "roles/monitoring.viewer",
    "serviceusage.services.use": "roles/serviceusage.serviceUsageConsumer",
    "storage.objects.get": "roles/storage.objectViewer",
    "storage.objects.list": "roles/storage.objectViewer",
    "storage.buckets.": "roles/storage.admin",
    "storage.objects.": "roles/storage.objectUser",
}
"""A permission, or a prefix of several → the role that grants it; the first that fits."""

GRANTED_BY_PROJECT = ("aiplatform.", "cloudbuild.", "artifactregistry.repositories.create")
"""Prefixes of permissions that only a project grants; a repository, bucket or account may grant the others."""

REQUIRED = {
    "upload": ("aiplatform.models.upload", "aiplatform.models.get"),
    "deploy": (
        "aiplatform.endpoints.create",
        "aiplatform.endpoints.deploy",
        "aiplatform.endpoints.update",
        "aiplatform.endpoints.undeploy",
    ),
    "predict": ("aiplatform.endpoints.predict",),
    "push": ("artifactregistry.repositories.uploadArtifacts",),
    "repository": ("artifactregistry.repositories.create",),
    "build": ("cloudbuild.builds.create", "storage.objects.create"),
}
"""A part of the command `endpoint` → the permissions that it needs."""

EMAIL = r"[A-Za-z0-9][\w.+-]*@[\w-]+(?:\.[\w-]+)+"
RESOURCES = {
    # part of a message → gcloud's command for the policy of that resource
    rf"(?:gs://|\bbuckets/)({BUCKET})": ("gcloud storage buckets add-iam-policy-binding gs://{0}"),
    r"projects/([^/\s'\"]+)/locations/([^/\s'\"]+)/repositories/([a-z0-9-]+)": (
        "gcloud artifacts repositories add-iam-policy-binding {2} --location={1} --project={0}"
    ),
    r"projects/([^/\s'\"]+)/locations/([^/\s'\"]+)/keyRings/([\w-]+)/cryptoKeys/([\w-]+)": (
        "gcloud kms keys add-iam-policy-binding {3} --keyring={2} --location={1} --project={0}"
    ),
    rf"projects/[^/\s'\"]+/serviceAccounts/({EMAIL})": (
        "gcloud iam service-accounts add-iam-policy-binding {0}"
    ),
}


class MissingPermission(NamedTuple):
    """A permission that an account lacks on a resource."""

    permission: str
    account: str
    """E-mail address; "" is the caller, if its address is unknown."""
    resource: str
    """As the message names it; "" is the project."""
    command: str
    """The start of the gcloud command that changes the resource's policy."""

    @property
    def role(self) -> str:
        """The role that grants the permission; "" if it is not known."""
        fitting = (role for prefix, role in ROLES.items() if self.permission.startswith(prefix))
        return next(fitting, "")


def find_missing_permission(text: str, permission: str, caller: str) -> MissingPermission | None:
    """Return what Google's message of a denied permission names; None if it names no permission."""
    # Not the end of an e-mail address or of a host's name.
    named = re.search(r"(?<![\w@./-])([a-z][A-Za-z]+\.[a-z][A-Za-z]+\.(?!com\b)[A-Za-z]+)\b", text)
    permission = permission or (named[1] if named else "")
    if not permission:
        return None
    resource = command = ""
    for pattern, template in RESOURCES.items():
        if found := re.search(pattern, text):
            resource = found[0]
            command = template.format(*filter(None, found.groups()))
            break
    # The account to act as is a resource, not the one that lacks the permission.
    accounts = [each for each in re.findall(EMAIL, text) if each not in resource]
    return MissingPermission(permission, next(iter(accounts), caller), resource, command)


def grant_command(project: str, permission: str, caller: str = "") -> str:
    """Return the gcloud command that grants a permission in the project."""
    return grant_missing(project, MissingPermission(permission, caller, "", ""))


def grant_missing(project: str, missing: MissingPermission) -> str:
    """Return the gcloud command that grants a permission on its resource, or else in the project."""
    if not missing.role:
        where = missing.resource or project
        return f"request the permission {missing.permission} from an owner of {where}"
    command = missing.command or f"gcloud projects add-iam-policy-binding {project}"
    return f"{command} --member={_member(missing.account)} --role={missing.role}"


def _member(account: str) -> str:
    if not account:
        return "user:$(gcloud config get account)"
    kind = "serviceAccount" if account.endswith(".gserviceaccount.com") else "user"
    return shlex.quote(f"{kind}:{account}")
