"""The emulator's errors. ApiError has the codes, messages and JSON of Google's APIs."""

from collections.abc import Sequence
from typing import Any

from google.api_core.exceptions import exception_class_for_grpc_status
from google.rpc import code_pb2
from grpc import StatusCode

_GRPC = {status.value[0]: status for status in StatusCode}


class EmulatorError(Exception):
    """Base class of the emulator's errors."""


class ApiError(EmulatorError):
    """The error with which a request is answered, or with which an operation ends."""

    def __init__(self, status: str, message: str, details: Sequence[dict[str, Any]] = ()) -> None:
        """`status` is one of google.rpc.Code's names, such as NOT_FOUND."""
        super().__init__(message)
        self.status, self.message, self.details = status, message, list(details)
        self.code: int = code_pb2.Code.Value(status)

    @property
    def http_status(self) -> int:
        """The HTTP status that Google's clients map to this code."""
        return int(exception_class_for_grpc_status(_GRPC[self.code]).code or 500)

    def to_json(self) -> dict[str, Any]:
        """Return the body of the HTTP response."""
        error = {"code": self.http_status, "message": self.message, "status": self.status}
        return {"error": error | ({"details": self.details} if self.details else {})}


def invalid_argument(message: str) -> ApiError:
    """Return INVALID_ARGUMENT: the request is wrong whatever the state of the resources."""
    return ApiError("INVALID_ARGUMENT", message)


def failed_precondition(message: str) -> ApiError:
    """Return FAILED_PRECONDITION: the request is wrong for the current state of the resources."""
    return ApiError("FAILED_PRECONDITION", message)


def unimplemented(message: str) -> ApiError:
    """Return UNIMPLEMENTED: Google supports the request, the emulator does not."""
    return ApiError("UNIMPLEMENTED", message)


def not_found(resource_type: str, name: str) -> ApiError:
    """Return Google's error for a resource that does not exist."""
    return ApiError("NOT_FOUND", f"{resource_type} `{name}` not found.")


def permission_denied(permission: str, resource: str) -> ApiError:
    """Return Google's error for a caller without a permission on a resource."""
    uri = f"//aiplatform.googleapis.com/{resource}"
    message = f"Permission '{permission}' denied on resource '{uri}' (or it may not exist)."
    metadata = {"permission": permission, "resource": resource}
    return _forbidden(message, "IAM_PERMISSION_DENIED", "aiplatform.googleapis.com", metadata)


def service_disabled(service: str, project: str) -> ApiError:
    """Return Google's error for an API that is not enabled in a project."""
    url = f"https://console.developers.google.com/apis/api/{service}/overview?project={project}"
    message = (
        f"{service} has not been used in project {project} before or it is disabled. "
        f"Enable it by visiting {url} then retry."
    )
    metadata = {"service": service, "consumer": f"projects/{project}"}
    return _forbidden(message, "SERVICE_DISABLED", "googleapis.com", metadata)


def _forbidden(message: str, reason: str, domain: str, metadata: dict[str, str]) -> ApiError:
    info = {"@type": "type.googleapis.com/google.rpc.ErrorInfo", "reason": reason, "domain": domain}
    return ApiError("PERMISSION_DENIED", message, [info | {"metadata": metadata}])
