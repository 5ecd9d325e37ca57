"""The permissions that commands need, and the least privileged roles that grant them."""

ROLES = {
    "aiplatform.": "roles/aiplatform.user",
    "artifactregistry.packages.delete": "roles/artifactregistry.repoAdmin",
    "artifactregistry.repositories.create": "roles/artifactregistry.admin",
    "artifactregistry.repositories.deleteArtifacts": "roles/artifactregistry.repoAdmin",
    "artifactregistry.repositories.downloadArtifacts": "roles/artifactregistry.reader",
    "artifactregistry.repositories.get": "roles/artifactregistry.reader",
    "artifactregistry.repositories.uploadArtifacts": "roles/artifactregistry.writer",
    "cloudbuild.builds.": "roles/cloudbuild.builds.editor",
    "iam.serviceAccounts.actAs": "roles/iam.serviceAccountUser",
    "monitoring.timeSeries.list": "roles/monitoring.viewer",
    "serviceusage.services.use": "roles/serviceusage.serviceUsageConsumer",
    "storage.buckets.": "roles/storage.admin",
    "storage.objects.": "roles/storage.admin",
}
"""A permission, or a prefix of several → the role that grants it."""

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


def grant_command(project: str, permission: str) -> str:
    """Return the gcloud command that grants a permission."""
    member = "--member=user:$(gcloud config get account)"
    for prefix, role in ROLES.items():
        if permission.startswith(prefix):
            return f"gcloud projects add-iam-policy-binding {project} {member} --role={role}"
    return f"request the permission {permission} from an owner of {project}"
