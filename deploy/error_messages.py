"""Translates Google's errors into one sentence and a hint. Pure."""

import re
from collections.abc import Mapping
from dataclasses import dataclass, field

from deploy.errors import ApiDisabledError, PermissionDeniedError, UserError
from deploy.roles import grant_command
from deploy.settings import Settings

PREDICTING = "predicting"
"""The action of a request to the model, whose errors are those of the request."""


@dataclass(frozen=True)
class GoogleError:
    """An error in a response, or of a failed operation."""

    status: str
    """The name of a google.rpc.Code, such as NOT_FOUND."""
    message: str
    reason: str = ""
    """The reason in the ErrorInfo, such as SERVICE_DISABLED."""
    metadata: Mapping[str, str] = field(default_factory=dict)
    action: str = ""
    """What failed, such as "deploying version 3"."""


def to_user_error(error: GoogleError, settings: Settings) -> UserError:  # noqa: PLR0911  one return for each case
    """Return the message and the hint for an error of Google's."""
    project, text = settings.project, error.message
    while_ = f" while {error.action}" if error.action else ""
    logs = (
        f"gcloud logging read 'resource.type=\"aiplatform.googleapis.com/Endpoint\"' --project={project} "
        "--limit=50 --freshness=1h"
    )
    if error.reason == "SERVICE_DISABLED":
        service = error.metadata.get("service", "aiplatform.googleapis.com")
        hint = f"gcloud services enable {service} --project={project}"
        return ApiDisabledError(f"the API {service} is not enabled in {project}", hint)
    if error.status == "PERMISSION_DENIED":
        named = re.search(r"'([a-z][A-Za-z]+(?:\.[A-Za-z]+)+)'", text)
        permission = error.metadata.get("permission") or (named[1] if named else "")
        if permission:
            reason = f"permission denied{while_}: {permission} is missing in {project}"
            return PermissionDeniedError(reason, grant_command(project, permission))
        hint = "docs/cloud.md lists the roles"
        return PermissionDeniedError(f"permission denied{while_}: {text}", hint)
    if error.status == "UNAUTHENTICATED":
        return UserError(
            "not authenticated to Google Cloud", "gcloud auth application-default login"
        )
    if "never became ready" in text or "exited unexpectedly" in text:
        exited = "exited" in text
        what = "the container exited" if exited else "the container did not become healthy"
        last_line = text.partition("last lines:\n")[2].strip().rpartition("\n")[2]
        because = f"; last log line: {last_line}" if last_line else ""
        hint = f"make contract IMAGE=… reproduces it in seconds; the container's log: {logs}"
        return UserError(f"{what}{while_}{because}", hint)
    if error.status == "RESOURCE_EXHAUSTED" or "quota" in text.lower():
        return UserError(
            f"quota exceeded{while_}: {text}",
            "free some with make undeploy ARGS=--idle, use a smaller machine_type or fewer min_replicas, "
            f"or request more: https://console.cloud.google.com/iam-admin/quotas?project={project}",
        )
    if error.status == "NOT_FOUND" and "mage" in text:
        hint = "make build-cloud, or make build and make push"
        return UserError(f"image not found{while_}: {text}", hint)
    if "payload size exceeds" in text:
        hint = "send fewer instances, or set dedicated = true in deploy.toml (10 MB)"
        return UserError(f"the request is too large: {text}", hint)
    if error.status == "ABORTED":
        return UserError(f"changed by another client{while_}: {text}", "run the same command again")
    if error.status == "CANCELLED":
        return UserError(f"cancelled{while_}", "run the same command again")
    if error.status in ("UNAVAILABLE", "INTERNAL", "DEADLINE_EXCEEDED", "UNKNOWN"):
        hint = "run the same command again: it continues where it stopped"
        return UserError(f"Google's API failed{while_}: {text}", hint)
    hint = "make status shows the current state"
    if error.action == PREDICTING:
        hint = "the container or the endpoint rejected the request: fix the request"
    return UserError(f"request rejected{while_}: {text} ({error.status})", hint)
