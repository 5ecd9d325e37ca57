"""Translates Google's errors into one sentence and a hint. Pure."""

import json
import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field

from deploy.errors import ApiDisabledError, PermissionDeniedError, UserError
from deploy.machines import load_table
from deploy.quota import quota_page
from deploy.roles import find_missing_permission, grant_missing
from deploy.settings import Settings

PREDICTING = "predicting"
"""The action whose errors may be the container's."""
QUOTA = re.compile(r"\b(CustomModel\w+|custom_model_\w+|[\w.]+\.googleapis\.com/[\w/]+)")
LAST_LINES = "last lines:\n"


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
    account: str = ""
    """The e-mail address of the caller, if it is known."""

    @property
    def context(self) -> str:
        """The action as the end of a sentence."""
        return f" while {self.action}" if self.action else ""


def to_user_error(error: GoogleError, settings: Settings) -> UserError:
    """Return the message and the hint for an error of Google's."""
    for translate in TRANSLATIONS:
        if translated := translate(error, settings):
            return translated
    hint = "make status shows the current state"
    return UserError(f"request rejected{error.context}: {error.message} ({error.status})", hint)


def _service_disabled(error: GoogleError, settings: Settings) -> UserError | None:
    if error.reason != "SERVICE_DISABLED":
        return None
    service = error.metadata.get("service", "aiplatform.googleapis.com")
    hint = f"gcloud services enable {service} --project={settings.project}"
    return ApiDisabledError(f"the API {service} is not enabled in {settings.project}", hint)


def _permission(error: GoogleError, settings: Settings) -> UserError | None:
    text = error.message
    if error.status != "PERMISSION_DENIED" and "does not have" not in text:
        return None
    missing = find_missing_permission(text, error.metadata.get("permission", ""), error.account)
    if missing is None:
        hint = "docs/cloud.md lists the roles"
        return PermissionDeniedError(f"permission denied{error.context}: {text}", hint)
    details = [f"account {missing.account}"] if missing.account else []
    details += [f"role {missing.role}"] if missing.role else []
    reason = f"{missing.permission} is missing in {missing.resource or settings.project}"
    reason = f"permission denied{error.context}: {reason} ({', '.join(details)})"
    return PermissionDeniedError(reason, grant_missing(settings.project, missing))


def _not_authenticated(error: GoogleError, _: Settings) -> UserError | None:
    if error.status != "UNAUTHENTICATED":
        return None
    return UserError("not authenticated to Google Cloud", "gcloud auth application-default login")


def _container(error: GoogleError, settings: Settings) -> UserError | None:
    text = error.message
    if "never became ready" not in text and "exited unexpectedly" not in text:
        return None
    logs = (
        f"gcloud logging read 'resource.type=\"aiplatform.googleapis.com/Endpoint\"' --project={settings.project} "
        "--limit=50 --freshness=1h"
    )
    exited = "exited" in text
    what = "the container exited" if exited else "the container did not become healthy"
    last_line = _read_log_line(text.partition(LAST_LINES)[2].strip().rpartition("\n")[2])
    because = f"; last log line: {last_line}" if last_line else ""
    hint = f"make contract IMAGE=… reproduces it in seconds; the container's log: {logs}"
    if not settings.container_logging:
        hint = (
            "make contract IMAGE=… reproduces it in seconds; container_logging = true keeps its log"
        )
    return UserError(f"{what}{error.context}{because}", hint)


def _read_log_line(line: str) -> str:
    """Return the message of a log line in JSON, as our container writes it; another line unchanged."""
    try:
        record = json.loads(line)
    except ValueError:
        return line
    return str(record["message"]) if isinstance(record, dict) and "message" in record else line


def _prediction(error: GoogleError, settings: Settings) -> UserError | None:
    """Translate errors of a prediction: those of the container, and of an endpoint that is scaled to zero."""
    text = error.message
    if error.action != PREDICTING or error.status == "NOT_FOUND":
        return None
    if error.status == "RESOURCE_EXHAUSTED" and "not yet ready" in text:
        reason = f"the endpoint {settings.name} is scaled to zero, and starts a replica now"
        hint = "send the request again in some minutes; min_replicas = 1 keeps a replica running"
        return UserError(reason, hint)
    if error.status == "RESOURCE_EXHAUSTED":
        hint = "send fewer requests at once, retry with a delay, or increase max_replicas"
        return UserError(f"the container rejected the request: {text}", hint)
    if error.status == "INVALID_ARGUMENT" and "payload size exceeds" not in text:
        hint = "fix the request: docs/requests.md describes its parts"
        return UserError(f"the container rejected the request: {text}", hint)
    return None


def _quota(error: GoogleError, settings: Settings) -> UserError | None:
    text = error.message
    if error.status != "RESOURCE_EXHAUSTED" and "quota" not in text.lower():
        return None
    s = settings
    cores = load_table().cores.get(s.machine_type)
    need = f"{s.replicas.maximum} x {s.machine_type}" + (
        f" = {s.replicas.maximum * cores} cores" if cores else ""
    )
    if s.accelerator_count:
        need += f" and {s.replicas.maximum * s.accelerator_count} {s.accelerator_type}"
    names = ", ".join(dict.fromkeys(QUOTA.findall(text))) or "the quota"
    return UserError(
        f"quota exceeded{error.context} in {s.region}: {text} (max_replicas counts, here {need})",
        "free some with make undeploy ARGS=--idle, use a smaller machine_type or max_replicas, or request more of "
        f"{names}: {quota_page(s.project)}",
    )


def _others(error: GoogleError, _: Settings) -> UserError | None:
    text = error.message
    if error.status == "NOT_FOUND" and "mage" in text:
        hint = "make build-cloud, or make build and make push"
        return UserError(f"image not found{error.context}: {text}", hint)
    if "payload size exceeds" in text:
        hint = "send fewer instances, or set dedicated = true in deploy.toml (10 MB)"
        return UserError(f"the request is too large: {text}", hint)
    if error.status == "ABORTED":
        reason = f"changed by another client{error.context}: {text}"
        return UserError(reason, "run the same command again")
    if error.status == "CANCELLED":
        return UserError(f"cancelled{error.context}", "run the same command again")
    if error.status in ("UNAVAILABLE", "INTERNAL", "DEADLINE_EXCEEDED", "UNKNOWN"):
        hint = "run the same command again: it continues where it stopped"
        return UserError(f"Google's API failed{error.context}: {text}", hint)
    return None


TRANSLATIONS: tuple[Callable[[GoogleError, Settings], UserError | None], ...] = (
    *(_service_disabled, _permission, _not_authenticated, _container, _prediction, _quota, _others),
)
