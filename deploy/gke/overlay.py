"""What of deploy.toml becomes an overlay of kubernetes/: a folder that kubectl renders. Pure but for one write."""

from pathlib import Path
from typing import Any

import yaml

from deploy.settings import Settings

WRITTEN = Path("build/gke")
"""A folder for each name, and the kubeconfig that is used instead of one's own."""
KUBECONFIG = WRITTEN / "kubeconfig"
"""Of ours alone: whatever cluster your kubectl looks at, it goes on looking there."""
MANIFESTS = "../../../kubernetes"
IMAGE = "vertex-torchserve"
"""The name that the manifests give the image."""
APP, CONTAINER = "digits", "serving"
"""The objects' own name, and their container's."""


def kustomization(settings: Settings, image: str, *, queue_wait: bool = False) -> dict[str, Any]:
    """Return the overlay for an image, NAME@sha256:…, in a namespace of the settings' name."""
    path, _, digest = image.partition("@")
    overlay = "gke-gpu" if settings.accelerator_type else "gke-cpu"
    components = {"bucket": settings.artifact_uri, "queue-wait": queue_wait}
    return {
        "apiVersion": "kustomize.config.k8s.io/v1beta1",
        "kind": "Kustomization",
        "namespace": settings.name,
        "resources": [f"{MANIFESTS}/overlays/{overlay}"],
        "components": [
            f"{MANIFESTS}/components/{name}" for name, wanted in components.items() if wanted
        ],
        "images": [{"name": IMAGE, "newName": path, "digest": digest}],
        "patches": [_patch(each) for each in _patches(settings)],
    }


def remains(settings: Settings) -> dict[str, Any]:
    """Return the overlay of what is deleted: all but the namespace, where others may have moved in."""
    found = kustomization(settings, f"{IMAGE}@sha256:{'0' * 64}")
    gone = {"apiVersion": "v1", "kind": "Namespace", "metadata": {"name": APP}, "$patch": "delete"}
    return found | {"components": [], "patches": [_patch(gone)]}


def write(settings: Settings, content: dict[str, Any]) -> Path:
    """Write it to where kubectl is sent; return the folder."""
    folder = WRITTEN / settings.name
    folder.mkdir(parents=True, exist_ok=True)
    text = yaml.safe_dump(content, sort_keys=False)
    (folder / "kustomization.yaml").write_text(
        f"# Written anew by each python -m deploy.gke.\n{text}"
    )
    return folder


def _patches(settings: Settings) -> list[dict[str, Any]]:
    environ = {
        "GOOGLE_CLOUD_PROJECT": settings.project,  # a line of the log finds its trace by it
        **({"AIP_STORAGE_URI": settings.artifact_uri} if settings.artifact_uri else {}),
        **settings.env,
    }
    container: dict[str, Any] = {
        "name": CONTAINER,
        "env": [{"name": key, "value": value} for key, value in environ.items()],
    }
    pod: dict[str, Any] = {"containers": [container]}
    if settings.accelerator_type:
        # Vertex AI says NVIDIA_TESLA_T4 where GKE says nvidia-tesla-t4.
        kind = settings.accelerator_type.lower().replace("_", "-")
        count = {"nvidia.com/gpu": str(settings.accelerator_count)}
        pod["nodeSelector"] = {"cloud.google.com/gke-accelerator": kind}
        container["resources"] = {"limits": count, "requests": count}
    found = [
        {
            "apiVersion": "apps/v1",
            "kind": "Deployment",
            "metadata": {"name": APP},
            "spec": {"template": {"spec": pod}},
        }
    ]
    if settings.service_account:
        annotation = {"iam.gke.io/gcp-service-account": settings.service_account}
        metadata = {"name": APP, "annotations": annotation}
        found.append({"apiVersion": "v1", "kind": "ServiceAccount", "metadata": metadata})
    return found


def _patch(content: dict[str, Any]) -> dict[str, Any]:
    # By kind and name: the namespace is not the one that is written in the manifests.
    target = {"kind": content["kind"], "name": content["metadata"]["name"]}
    return {"target": target, "patch": yaml.safe_dump(content, sort_keys=False)}
