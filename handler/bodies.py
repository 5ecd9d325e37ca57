"""Parse the body of a request by its content type: Vertex AI's JSON, or one raw instance."""

from handler import envelope
from handler.envelope import JSON_TYPE, Request
from handler.errors import InvalidArgumentError, UnsupportedMediaTypeError
from task.adapter import AdaptedTask


def parse_request(
    task: AdaptedTask, body: bytes, content_type: str | None = None, accept: str | None = None
) -> Request:
    """Return the request in a body; `content_type` and `accept` are its headers.

    Without a content type the body is JSON. A type that the task accepts makes the body the only instance: text
    for text/*, else bytes. Raises RequestError.
    """
    media_type = envelope.parse_media_type(content_type or "")
    if media_type in ("", JSON_TYPE):
        return envelope.parse_body(body, accept or "")
    if not task.accepts_type(media_type):
        expected = ", ".join([JSON_TYPE, *task.accepts])
        raise UnsupportedMediaTypeError(f"Content-Type: expected {expected}; got {media_type}")
    instance = _decode_text(body) if media_type.startswith("text/") else body
    return Request([instance], {}, False, envelope.find_stream_type(accept or ""))


def _decode_text(body: bytes) -> str:
    try:
        return body.decode()
    except UnicodeDecodeError as error:
        raise InvalidArgumentError(f"the body is not UTF-8: {error}") from None
