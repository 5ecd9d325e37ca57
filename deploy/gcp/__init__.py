"""Clients of Google's APIs for one project and region. No other module of `deploy` but `buckets` calls Google."""

from collections.abc import Callable
from dataclasses import dataclass

from deploy.gcp.artifacts import ArtifactRegistry
from deploy.gcp.client import Client
from deploy.gcp.iam import IAM
from deploy.gcp.monitoring import Monitoring
from deploy.gcp.storage import Storage
from deploy.gcp.vertex import VertexAI
from deploy.programs import Programs
from deploy.settings import Settings

__all__ = ["CloudClients"]


@dataclass(frozen=True, kw_only=True)
class CloudClients:
    """The settings of a command, and the clients and programs that carry it out."""

    settings: Settings
    report: Callable[[str], None]
    """Prints a line of progress."""
    dry_run: bool
    """Whether changes are printed instead of made."""
    client: Client
    vertex: VertexAI
    artifacts: ArtifactRegistry
    storage: Storage
    iam: IAM
    monitoring: Monitoring
    programs: Programs

    @classmethod
    def create(
        cls, settings: Settings, report: Callable[[str], None] = print, *, dry_run: bool = False
    ) -> "CloudClients":
        """Return clients that share one transport; nothing is sent yet."""
        client = Client(settings, report, dry_run=dry_run)
        return cls(
            settings=settings,
            report=report,
            dry_run=dry_run,
            client=client,
            vertex=VertexAI(client),
            artifacts=ArtifactRegistry(client),
            storage=Storage(client),
            iam=IAM(client),
            monitoring=Monitoring(client),
            programs=Programs(report, dry_run, settings.wait_minutes * 60),
        )
