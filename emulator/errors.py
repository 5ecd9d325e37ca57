"""What is refused, in Google's words and shape."""

from typing import Any

from google.api_core.exceptions import exception_class_for_grpc_status
from google.rpc import code_pb2
from grpc import StatusCode

_GRPC = {status.value[0]: status for status in StatusCode}


class ApiError(Exception):
    """A request that is answered by an error, or an operation that ends in one."""

    def __init__(
        self, status: str, message: str, details: list[dict[str, Any]] | None = None
    ) -> None:
        """`status` is one of google.rpc.Code's names, such as NOT_FOUND."""
        super().__init__(message)
        self.status, self.message, self.details = status, message, details or []
        self.code: int = code_pb2.Code.Value(status)

    @property
    def http(self) -> int:
        """The HTTP status that Google's clients read as this code."""
        return int(exception_class_for_grpc_status(_GRPC[self.code]).code or 500)

    def body(self) -> dict[str, Any]:
        """Return what goes over HTTP."""
        error = {"code": self.http, "message": self.message, "status": self.status}
        return {"error": error | ({"details": self.details} if self.details else {})}


def invalid_argument(message: str) -> ApiError:
    """Return INVALID_ARGUMENT, for a request that no state of the resources makes right."""
    return ApiError("INVALID_ARGUMENT", message)


def failed_precondition(message: str) -> ApiError:
    """Return FAILED_PRECONDITION, for a request that another state of the resources makes right."""
    return ApiError("FAILED_PRECONDITION", message)


def unimplemented(message: str) -> ApiError:
    """Return UNIMPLEMENTED, for what Google does and the rehearsal does not."""
    return ApiError("UNIMPLEMENTED", message)


def not_found(what: str, name: str) -> ApiError:
    """Return what Google says of a resource that is not there."""
    return ApiError("NOT_FOUND", f"{what} `{name}` not found.")


def permission_denied(permission: str, resource: str) -> ApiError:
    """Return what Google says to somebody whose roles do not reach."""
    where = f"//aiplatform.googleapis.com/{resource}"
    message = f"Permission '{permission}' denied on resource '{where}' (or it may not exist)."
    metadata = {"permission": permission, "resource": resource}
    return _forbidden(message, "IAM_PERMISSION_DENIED", "aiplatform.googleapis.com", metadata)


def service_disabled(service: str, project: str) -> ApiError:
    """Return what Google says where an API was never enabled."""
    where = f"https://console.developers.google.com/apis/api/{service}/overview?project={project}"
    message = (
        f"{service} has not been used in project {project} before or it is disabled. "
        f"Enable it by visiting {where} then retry."
    )
    metadata = {"service": service, "consumer": f"projects/{project}"}
    return _forbidden(message, "SERVICE_DISABLED", "googleapis.com", metadata)


def _forbidden(message: str, reason: str, domain: str, metadata: dict[str, str]) -> ApiError:
    info = {"@type": "type.googleapis.com/google.rpc.ErrorInfo", "reason": reason, "domain": domain}
    return ApiError("PERMISSION_DENIED", message, [info | {"metadata": metadata}])
