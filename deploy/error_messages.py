"""Google's errors as one sentence and what to do. Pure."""

import re
from collections.abc import Mapping
from dataclasses import dataclass, field

from deploy.errors import UserError
from deploy.roles import grant
from deploy.settings import Settings


@dataclass(frozen=True)
class GoogleError:
    """An error of Google's, from a response or from an operation that failed."""

    status: str
    """google.rpc.Code's name, such as NOT_FOUND"""
    message: str
    reason: str = ""
    """ErrorInfo's, such as SERVICE_DISABLED"""
    metadata: Mapping[str, str] = field(default_factory=dict)
    doing: str = ""
    """what was being done, such as "deploying version 3"."""


def to_user_error(said: GoogleError, settings: Settings) -> UserError:  # noqa: PLR0911  a table, in words
    """Return what a person needs to read of an error."""
    project, text = settings.project, said.message
    while_ = f" while {said.doing}" if said.doing else ""
    logs = (
        f"gcloud logging read 'resource.type=\"aiplatform.googleapis.com/Endpoint\"' --project={project} "
        "--limit=50 --freshness=1h"
    )
    if said.reason == "SERVICE_DISABLED":
        service = said.metadata.get("service", "aiplatform.googleapis.com")
        return UserError(
            f"the API {service} is not enabled in {project}",
            f"gcloud services enable {service} --project={project}",
        )
    if said.status == "PERMISSION_DENIED":
        named = re.search(r"'([a-z][A-Za-z]+(?:\.[A-Za-z]+)+)'", text)
        permission = said.metadata.get("permission") or (named[1] if named else "")
        if permission:
            return UserError(
                f"the permission {permission} is missing in {project}{while_}",
                grant(project, permission),
            )
        return UserError(
            f"Google refuses{while_}: {text}", "the table of roles is in docs/cloud.md"
        )
    if said.status == "UNAUTHENTICATED":
        return UserError(
            "Google does not know who is asking", "gcloud auth application-default login"
        )
    if "never became ready" in text or "exited unexpectedly" in text:
        ended, unhealthy = "the container ended by itself", "the container never got healthy"
        what = ended if "exited" in text else unhealthy
        last = text.partition("last lines:\n")[2].strip().rpartition("\n")[2]
        because = f"; its last line: {last}" if last else ""
        return UserError(
            f"{what}{while_}{because}",
            f"make contract IMAGE=… tries it here, in seconds. Its log: {logs}",
        )
    if said.status == "RESOURCE_EXHAUSTED" or "quota" in text.lower():
        return UserError(
            f"a quota is used up{while_}: {text}",
            "python -m deploy undeploy --idle frees what has no traffic, a smaller machine_type or min_replicas "
            "needs less, or ask for more: "
            f"https://console.cloud.google.com/iam-admin/quotas?project={project}",
        )
    if said.status == "NOT_FOUND" and "mage" in text:
        return UserError(
            f"the image is not in the registry{while_}: {text}",
            "make build-cloud, or make build and make push",
        )
    if "payload size exceeds" in text:
        return UserError(
            f"the request is too large: {text}",
            "send fewer instances, or dedicated = true in deploy.toml (10 MB)",
        )
    if said.status == "ABORTED":
        return UserError(
            f"somebody else changed it meanwhile{while_}: {text}", "run the same command again"
        )
    if said.status == "CANCELLED":
        return UserError(f"it was cancelled{while_}", "run the same command again")
    if said.status in ("UNAVAILABLE", "INTERNAL", "DEADLINE_EXCEEDED", "UNKNOWN"):
        return UserError(
            f"Google failed{while_}: {text}", "run the same command again: it goes on where it was"
        )
    return UserError(
        f"Google refuses{while_}: {text} ({said.status})",
        "python -m deploy status shows what there is",
    )
