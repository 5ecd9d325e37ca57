"""Which of Google's roles holds which permission: the least that does."""

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
"""A permission that these programs use, or what several of them begin with → the role that grants it."""

WHOLE = ("aiplatform.", "cloudbuild.", "artifactregistry.repositories.create")
"""Granted by the project alone. The others may also be granted by one repository, bucket or account."""

NEEDED = {
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
"""What a part of `deploy-endpoint` needs."""


def grant(project: str, permission: str) -> str:
    """Return the command that grants a permission."""
    member = "--member=user:$(gcloud config get account)"
    for start, role in ROLES.items():
        if permission.startswith(start):
            return f"gcloud projects add-iam-policy-binding {project} {member} --role={role}"
    return f"ask an owner of {project} for the permission {permission}"
