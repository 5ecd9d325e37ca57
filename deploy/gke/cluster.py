"""One cluster: put the image there, and take it away again."""

import re
from dataclasses import dataclass
from typing import TYPE_CHECKING

from deploy.cli import confirm
from deploy.errors import UserError
from deploy.gke import overlay
from deploy.gke.overlay import APP, KUBECONFIG
from deploy.programs import Programs
from deploy.registry import find_image
from deploy.settings import Settings

if TYPE_CHECKING:
    from deploy.gcp import CloudClients

ROLLOUT = "10m"
METRIC = "custom.metrics.k8s.io"


@dataclass(frozen=True)
class Cluster:
    """A GKE cluster, and what is done there."""

    name: str
    location: str
    """its region, or its zone"""
    settings: Settings
    programs: Programs

    def deploy(self, cloud: "CloudClients", *, queue_wait: bool) -> None:
        """Do all that is missing but the image; raise Stop."""
        found = find_image(cloud)
        if found is None or not re.search("@sha256:[0-9a-f]{64}$", found.uri):
            raise UserError(
                f"the image {self.settings.image or 'of these sources'} is not in the registry, or has no digest",
                "make push or make build-cloud, with the same PROJECT and REGION; or --image NAME@sha256:…",
            )
        self.programs.report(f"the image is there: {found.uri}")
        content = overlay.kustomization(self.settings, found.uri, queue_wait=queue_wait)
        folder = overlay.write(self.settings, content)
        self._connect()
        if not self.programs.dry_run:
            self._require(queue_wait=queue_wait)
        self._change(
            ["kubectl", "apply", "--server-side", "-k", str(folder)],
            UserError(
                "the cluster refuses it, as it says above",
                "mend that; the same command again goes on",
            ),
        )
        here = ["--namespace", self.settings.name]
        self._change(
            ["kubectl", "rollout", "status", f"deployment/{APP}", *here, f"--timeout={ROLLOUT}"],
            UserError(
                f"the pods are not ready within {ROLLOUT}; those before go on serving",
                f"KUBECONFIG={KUBECONFIG} kubectl {' '.join(here)} get pods, and describe or logs of one: a "
                "container that cannot serve says why in its last line",
            ),
        )
        if self.programs.dry_run:
            self.programs.report(f"what would be applied: kubectl kustomize {folder}")
            return
        kubectl = f"KUBECONFIG={KUBECONFIG} kubectl {' '.join(here)}"
        self.programs.report(
            f"\n{self.settings.name} answers in the cluster at http://{APP}.{self.settings.name}/predictions/digits\n"
            f"  within the network: {kubectl} get gateway {APP}\n"
            f"  from here: {kubectl} port-forward service/{APP} 8080:80, and make predict\n"
            f"Three pods run all the time, and a load balancer. To end it: make undeploy-gke"
        )

    def undeploy(self, *, yes: bool) -> None:
        """Delete what deploy has made but the namespace; it asks first. Raise Stop."""
        folder = overlay.write(self.settings, overlay.remains(self.settings))
        self._connect()
        if not self.programs.dry_run:
            found = self.programs.run(
                ["kubectl", "get", "--ignore-not-found", "-k", str(folder), "--output=name"],
                UserError("the cluster does not answer, as it says above", "try again"),
            )
            if not found:
                nothing = f"nothing of {self.settings.name} is in {self.name}"
                self.programs.report(f"{nothing}: nothing changed")
                return
            confirm(self.settings.name, found.split(), yes=yes)
        self._change(
            ["kubectl", "delete", "--ignore-not-found", "-k", str(folder)],
            UserError("not all of it is gone, as it says above", "run the same command again"),
        )
        if not self.programs.dry_run:
            self.programs.report(
                "nothing of it is left that costs; the cluster is, and the empty namespace: "
                f"kubectl delete namespace {self.settings.name}"
            )

    def _change(self, words: list[str], otherwise: UserError) -> None:
        self.programs.run(words, otherwise, show_output=True)

    def _connect(self) -> None:
        where = [f"--location={self.location}", f"--project={self.settings.project}"]
        self._change(
            ["gcloud", "container", "clusters", "get-credentials", self.name, *where],
            UserError(
                f"there is no way to the cluster {self.name} in {self.location}, as it says above",
                f"gcloud container clusters list --project={self.settings.project} shows those that there are; "
                f"gcloud container clusters create-auto {self.name} {' '.join(where)} makes it; a zonal one: "
                "--location",
            ),
        )

    def _require(self, *, queue_wait: bool) -> None:
        """Raise Stop where the cluster does not know what the manifests speak of."""
        served = self.programs.run(
            ["kubectl", "api-versions"], UserError("the cluster does not answer", "try again")
        )
        groups = {line.partition("/")[0] for line in served.split()}
        where = f"--location={self.location} --project={self.settings.project}"
        update = f"gcloud container clusters update {self.name} {where}"
        wanted = {
            "gateway.networking.k8s.io": f"{update} --gateway-api=standard",
            "networking.gke.io": f"{update} --update-addons=HttpLoadBalancing=ENABLED",
            "monitoring.googleapis.com": f"{update} --enable-managed-prometheus",
        }
        if queue_wait:
            wanted[METRIC] = "install the Prometheus adapter with our rule: docs/kubernetes.md"
        if missing := [group for group in wanted if group not in groups]:
            raise UserError(
                f"the cluster {self.name} does not serve {', '.join(missing)}",
                "\n  ".join(wanted[group] for group in missing),
            )
