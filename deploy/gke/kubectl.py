"""kubectl for one cluster, with a kubeconfig of its own, so that the user's own kubeconfig stays unchanged."""

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from deploy.errors import UserError
from deploy.programs import Programs


@dataclass(frozen=True, kw_only=True)
class Kubectl:
    """Runs kubectl, and gcloud to connect it to a cluster."""

    kubeconfig: Path
    report: Callable[[str], None]
    """Prints the commands that change something."""
    dry_run: bool
    """Whether all commands are printed instead of run."""

    @property
    def _programs(self) -> Programs:
        return Programs(self.report, self.dry_run, environ={"KUBECONFIG": str(self.kubeconfig)})

    def connect(self, cluster: str, location: str, project: str) -> None:
        """Write the cluster's credentials to the kubeconfig; raise UserError if gcloud fails."""
        target = [f"--location={location}", f"--project={project}"]
        error = UserError(
            f"cannot connect to the cluster {cluster} in {location}; the reason is printed above",
            f"list the clusters: gcloud container clusters list --project={project}\n"
            f"  create this one: gcloud container clusters create-auto {cluster} {' '.join(target)}\n"
            "  for a zonal cluster, pass its zone as --location",
        )
        command = ["gcloud", "container", "clusters", "get-credentials", cluster, *target]
        self._programs.run(command, error, show_output=True)

    def run(self, *arguments: str, error: UserError) -> None:
        """Run a command and show its output; raise `error` if it fails."""
        self._programs.run(["kubectl", *arguments], error, show_output=True)

    def query(self, *arguments: str) -> str:
        """Run a read-only command and return its output; raise UserError if it fails."""
        error = UserError(
            "the cluster returned an error, printed above", "run the same command again"
        )
        return self._programs.run(["kubectl", *arguments], error)
