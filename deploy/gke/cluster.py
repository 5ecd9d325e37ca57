"""Deploy the image to one GKE cluster, and delete the deployment."""

import re
from dataclasses import dataclass

from deploy.cli import confirm
from deploy.clients import CloudClients
from deploy.errors import UserError
from deploy.gke import overlay
from deploy.gke.kubectl import Kubectl
from deploy.gke.overlay import APP, Scaling
from deploy.registry import find_image
from deploy.settings import Settings

ROLLOUT_TIMEOUT, GPU_ROLLOUT_TIMEOUT = "10m", "20m"
"""A new node with a GPU installs its driver, and pulls a larger image. Estimates."""
CUSTOM_METRICS_API, EXTERNAL_METRICS_API = "custom.metrics.k8s.io", "external.metrics.k8s.io"
CPU_ONLY = (
    "pods are added by CPU use only, a poor measure of the load of a GPU: --duty-cycle or --queue-wait adds another "
    "(docs/kubernetes.md)"
)


@dataclass(frozen=True, kw_only=True)
class Cluster:
    """A GKE cluster that the image is deployed to."""

    name: str
    location: str
    """Region or zone."""
    settings: Settings
    kubectl: Kubectl

    def deploy(self, cloud: CloudClients, scaling: Scaling) -> None:
        """Apply the manifests with the image of the settings, and wait for the rollout; raise UserError."""
        report = self.kubectl.report
        found = find_image(cloud)
        if found is None or not re.search("@sha256:[0-9a-f]{64}$", found.uri):
            raise UserError(
                f"the image {self.settings.image or 'of these sources'} is not in the registry, or has no digest",
                "make push or make build-cloud, with the same PROJECT and REGION; or --image NAME@sha256:…",
            )
        report(f"image: {found.uri}")
        has_gpu = bool(self.settings.accelerator_type)
        if has_gpu and scaling == Scaling():
            report(CPU_ONLY)
        labels = {"cluster_name": self.name, "location": self.location}
        content = overlay.deployment_kustomization(self.settings, found.uri, scaling, labels)
        folder = overlay.write_overlay(self.settings, content)
        self._connect()
        if not self.kubectl.dry_run:
            self._check_apis(scaling)
        self.kubectl.run(
            *("apply", "--server-side", "-k", str(folder)),
            error=UserError(
                "the cluster rejected the manifests; the reason is printed above",
                "fix the cause, and run the same command again",
            ),
        )
        timeout = GPU_ROLLOUT_TIMEOUT if has_gpu else ROLLOUT_TIMEOUT
        namespace = ["--namespace", self.settings.name]
        kubectl = f"KUBECONFIG={self.kubectl.kubeconfig} kubectl {' '.join(namespace)}"
        self.kubectl.run(
            *("rollout", "status", f"deployment/{APP}", *namespace, f"--timeout={timeout}"),
            error=UserError(
                f"the pods are not ready after {timeout}; the previous pods continue to serve",
                f"{kubectl} get pods, then describe or logs of one: the last line of a container's log has the reason",
            ),
        )
        if self.kubectl.dry_run:
            report(f"to see the manifests: kubectl kustomize {folder}")
            return
        report(
            f"\nURL in the cluster: http://{APP}.{self.settings.name}{self.settings.predict_route}\n"
            f"  address in the VPC network: {kubectl} get gateway {APP}\n"
            f"  from this machine: {kubectl} port-forward service/{APP} 8080:80, then make predict\n"
            f"Three pods{' with GPUs' * has_gpu} and a load balancer run, and cost, until make undeploy-gke"
        )

    def undeploy(self, *, yes: bool) -> None:
        """Delete everything that `deploy` created but the namespace, after a confirmation unless `yes`.

        Raises UserError if it is not confirmed or the cluster cannot be reached.
        """
        report = self.kubectl.report
        folder = overlay.write_overlay(self.settings, overlay.deletion_kustomization(self.settings))
        self._connect()
        if not self.kubectl.dry_run:
            options = ("--ignore-not-found", "-k", str(folder), "--output=name")
            found = self.kubectl.query("get", *options)
            if not found:
                report(f"{self.settings.name} is not deployed in {self.name}: nothing to delete")
                return
            confirm(self.settings.name, found.split(), yes=yes)
        self.kubectl.run(
            *("delete", "--ignore-not-found", "-k", str(folder)),
            error=UserError(
                "not all objects were deleted; the reason is printed above",
                "run the same command again",
            ),
        )
        if not self.kubectl.dry_run:
            report(
                f"deleted. The cluster and the empty namespace remain: kubectl delete namespace {self.settings.name}"
            )

    def _connect(self) -> None:
        self.kubectl.connect(self.name, self.location, self.settings.project)

    def _check_apis(self, scaling: Scaling) -> None:
        """Raise UserError if the cluster lacks an API that the manifests use."""
        served = self.kubectl.query("api-versions")
        groups = {line.partition("/")[0] for line in served.split()}
        target = f"--location={self.location} --project={self.settings.project}"
        update = f"gcloud container clusters update {self.name} {target}"
        remedies = {
            "gateway.networking.k8s.io": f"{update} --gateway-api=standard",
            "networking.gke.io": f"{update} --update-addons=HttpLoadBalancing=ENABLED",
            "monitoring.googleapis.com": f"{update} --enable-managed-prometheus",
        }
        if scaling.duty_cycle:
            remedies[EXTERNAL_METRICS_API] = (
                "install Google's metrics adapter as in docs/kubernetes.md"
            )
        if scaling.queue_wait:
            remedies[CUSTOM_METRICS_API] = (
                "install the Prometheus adapter with the rule of docs/kubernetes.md"
            )
        if missing := [group for group in remedies if group not in groups]:
            hint = "\n  ".join(remedies[group] for group in missing)
            raise UserError(f"the cluster {self.name} lacks the APIs {', '.join(missing)}", hint)
