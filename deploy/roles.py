"""Which of Google's roles holds which permission: the least that does."""

ROLES = {
    "roles/aiplatform.user": (
        "aiplatform.models.upload",
        "aiplatform.models.get",
        "aiplatform.models.list",
        "aiplatform.models.update",
        "aiplatform.models.delete",
        "aiplatform.endpoints.create",
        "aiplatform.endpoints.get",
        "aiplatform.endpoints.list",
        "aiplatform.endpoints.deploy",
        "aiplatform.endpoints.undeploy",
        "aiplatform.endpoints.update",
        "aiplatform.endpoints.delete",
        "aiplatform.endpoints.predict",
        "aiplatform.batchPredictionJobs.create",
        "aiplatform.batchPredictionJobs.get",
        "aiplatform.batchPredictionJobs.list",
        "aiplatform.batchPredictionJobs.cancel",
        "aiplatform.pipelineJobs.create",
        "aiplatform.pipelineJobs.get",
        "aiplatform.schedules.create",
        "aiplatform.schedules.list",
        "aiplatform.schedules.delete",
        "aiplatform.operations.list",
    ),
    "roles/artifactregistry.reader": (
        "artifactregistry.repositories.get",
        "artifactregistry.repositories.downloadArtifacts",
    ),
    "roles/artifactregistry.writer": ("artifactregistry.repositories.uploadArtifacts",),
    "roles/artifactregistry.repoAdmin": (
        "artifactregistry.repositories.deleteArtifacts",
        "artifactregistry.packages.delete",
    ),
    "roles/artifactregistry.admin": ("artifactregistry.repositories.create",),
    "roles/cloudbuild.builds.editor": ("cloudbuild.builds.create", "cloudbuild.builds.get"),
    "roles/storage.admin": (
        "storage.buckets.create",
        "storage.buckets.get",
        "storage.objects.create",
        "storage.objects.delete",
    ),
    "roles/iam.serviceAccountUser": ("iam.serviceAccounts.actAs",),
    "roles/monitoring.viewer": ("monitoring.timeSeries.list",),
    "roles/serviceusage.serviceUsageConsumer": ("serviceusage.services.use",),
}

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


def role_of(permission: str) -> str | None:
    """Return the role that grants a permission."""
    return next((role for role, held in ROLES.items() if permission in held), None)


def grant(project: str, permission: str) -> str:
    """Return the command that grants a permission."""
    role = role_of(permission)
    member = "--member=user:$(gcloud config get account)"
    if role is None:
        return f"ask an owner of {project} for the permission {permission}"
    return f"gcloud projects add-iam-policy-binding {project} {member} --role={role}"
