"""What every command gets: its settings, and the clients of Google's APIs for one project and region."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING

from deploy.places import Place
from deploy.programs import Programs
from deploy.settings import Settings

if TYPE_CHECKING:
    from deploy.gcp.artifacts import ArtifactRegistry
    from deploy.gcp.client import Client
    from deploy.gcp.iam import IAM
    from deploy.gcp.jobs import Jobs
    from deploy.gcp.monitoring import Monitoring
    from deploy.gcp.storage import Storage
    from deploy.gcp.vertex import VertexAI


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
    jobs: Jobs
    artifacts: ArtifactRegistry
    storage: Storage
    iam: IAM
    monitoring: Monitoring
    programs: Programs
    changes: list[str]
    """What the command has begun to change, until now."""

    @classmethod
    def create(
        cls,
        settings: Settings,
        report: Callable[[str], None] = print,
        *,
        dry_run: bool = False,
        changes: list[str] | None = None,
    ) -> CloudClients:
        """Return clients that share one transport; nothing is sent yet."""
        changes = [] if changes is None else changes
        # Google's libraries take seconds to import: --help and invalid settings do not wait for them.
        from deploy.gcp import (  # noqa: PLC0415
            artifacts,
            client,
            iam,
            jobs,
            monitoring,
            storage,
            vertex,
        )

        shared = client.Client(settings, report, dry_run=dry_run, changes=changes)
        return cls(
            settings=settings,
            report=report,
            dry_run=dry_run,
            client=shared,
            vertex=vertex.VertexAI(shared),
            jobs=jobs.Jobs(shared),
            artifacts=artifacts.ArtifactRegistry(shared),
            storage=storage.Storage(shared),
            iam=iam.IAM(shared),
            monitoring=monitoring.Monitoring(shared),
            programs=Programs(report, dry_run, settings.wait_minutes * 60, changes=changes),
            changes=changes,
        )

    def at(self, place: Place) -> CloudClients:
        """Return the clients for another project and region."""
        moved = self.settings.model_copy(update=place._asdict())
        clients = self.create(moved, self.report, dry_run=self.dry_run, changes=self.changes)
        if place.project == self.settings.project:  # another project needs another quota project
            clients.client.credentials = self.client.credentials
        return clients
