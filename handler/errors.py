"""The errors that a request can get instead of predictions."""

from http import HTTPStatus

STATUS_NAMES = {
    HTTPStatus.BAD_REQUEST: "INVALID_ARGUMENT",
    HTTPStatus.METHOD_NOT_ALLOWED: "INVALID_ARGUMENT",
    HTTPStatus.REQUEST_ENTITY_TOO_LARGE: "INVALID_ARGUMENT",
    HTTPStatus.UNSUPPORTED_MEDIA_TYPE: "INVALID_ARGUMENT",
    HTTPStatus.TOO_MANY_REQUESTS: "RESOURCE_EXHAUSTED",
    HTTPStatus.INTERNAL_SERVER_ERROR: "INTERNAL",
    HTTPStatus.SERVICE_UNAVAILABLE: "UNAVAILABLE",
}
"""Google's status by HTTP code (https://cloud.google.com/apis/design/errors)."""


class LoadError(Exception):
    """The model cannot be loaded.

    TorchServe's worker ends because of it. A RuntimeError or a MemoryError would only be answered: TorchServe
    would retry for minutes, without a line that counts as a failure.
    """


class RequestError(Exception):
    """An error of one request; the client gets its text."""

    code = HTTPStatus.INTERNAL_SERVER_ERROR

    @property
    def status(self) -> str:
        """Google's status for the HTTP code."""
        return STATUS_NAMES[self.code]


class InvalidArgumentError(RequestError):
    """The client has to change the request: 400."""

    code = HTTPStatus.BAD_REQUEST


class InvalidParameterError(InvalidArgumentError):
    """The `parameters` are invalid: the whole request fails, whatever its `on_error` is."""


class UnsupportedMediaTypeError(RequestError):
    """The model does not take a body of this content type: 415."""

    code = HTTPStatus.UNSUPPORTED_MEDIA_TYPE


class ResourceExhaustedError(RequestError):
    """The request may be valid, but needs more time than a request in a shared batch gets: 429."""

    code = HTTPStatus.TOO_MANY_REQUESTS


class OutOfMemoryError(RequestError):
    """The instance alone needs more memory than the device has free: 503."""

    code = HTTPStatus.SERVICE_UNAVAILABLE


class InternalError(RequestError):
    """The model failed, whatever the client sent: 500. The log has the cause."""

    code = HTTPStatus.INTERNAL_SERVER_ERROR

    def __init__(self, message: str, cause: str = "") -> None:
        super().__init__(message)
        self.cause = cause
        """The exception of the task in one line, for those who check the model; no client gets it."""
