"""What a request can be told when it gets no predictions."""

from http import HTTPStatus

STATUS_WORDS = {
    HTTPStatus.BAD_REQUEST: "INVALID_ARGUMENT",
    HTTPStatus.METHOD_NOT_ALLOWED: "INVALID_ARGUMENT",
    HTTPStatus.REQUEST_ENTITY_TOO_LARGE: "INVALID_ARGUMENT",
    HTTPStatus.UNSUPPORTED_MEDIA_TYPE: "INVALID_ARGUMENT",
    HTTPStatus.TOO_MANY_REQUESTS: "RESOURCE_EXHAUSTED",
    HTTPStatus.INTERNAL_SERVER_ERROR: "INTERNAL",
    HTTPStatus.SERVICE_UNAVAILABLE: "UNAVAILABLE",
}
"""Google's status words by HTTP code (https://cloud.google.com/apis/design/errors)."""


class RequestError(Exception):
    """An error for one request; its text is shown to the client."""

    code = HTTPStatus.INTERNAL_SERVER_ERROR

    @property
    def status(self) -> str:
        """Google's word for the code."""
        return STATUS_WORDS[self.code]


class InvalidArgument(RequestError):
    """The client has to change the request: 400."""

    code = HTTPStatus.BAD_REQUEST


class ResourceExhausted(RequestError):
    """The request may be fine, but asks for more than there is time for beside the others: 429."""

    code = HTTPStatus.TOO_MANY_REQUESTS


class Internal(RequestError):
    """The model failed, whatever the client sent: 500. The cause goes to the log."""
