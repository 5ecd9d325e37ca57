"""The handler of an adapted stock archive: calls the archive's own handler, isolates its errors.

The own handler's responses are returned unchanged: to JSON through TorchServe's JSON envelope, to a
body of another content type without it. Where the envelope would fail a whole batch with a 503 (a
body that is not JSON, missing instances, invalid base64, an exception), only the request concerned
gets an error here. Intermediate responses of the own handler are sent as in TorchServe.
"""

import binascii
import copy
import logging
from base64 import b64decode
from collections.abc import Callable
from typing import TYPE_CHECKING, Any

from PIL import UnidentifiedImageError
from ts.context import Context
from ts.model_loader import TsModelLoader
from ts.utils.util import PredictionException

if TYPE_CHECKING:
    from handler import envelope
    from handler.errors import (
        InternalError,
        InvalidArgumentError,
        RequestError,
        UnsupportedMediaTypeError,
    )
else:  # the name in an archive, which may have a `handler` of its own
    from vertex_core import envelope
    from vertex_core.errors import (
        InternalError,
        InvalidArgumentError,
        RequestError,
        UnsupportedMediaTypeError,
    )

FORMS = ("multipart/form-data", "application/x-www-form-urlencoded")

log = logging.getLogger(__name__)


class StockHandler:
    """Serves a handler made for `service_envelope=json`, or for raw bodies, with a status per request."""

    def initialize(self, context: Context) -> None:
        """Load the archive's own handler as TorchServe does; raise its errors."""
        properties, stock = context.system_properties, context.manifest["model"]["stock"]
        try:
            service = TsModelLoader().load(
                stock["name"],
                properties["model_dir"],
                stock["handler"],
                properties["gpu_id"],
                properties["batch_size"],
                "json",
                properties["limit_max_image_pixels"],
                context.metrics,
            )
        except Exception as error:
            # TorchServe logs the traceback and retries; this line gives the reason at the log's end.
            reason = " ".join(str(error).split())
            log.error("cannot serve this archive: %s: %s", type(error).__name__, reason)
            raise
        self._name = stock["name"]
        self._handle_json = service._entry_point
        self._handle_raw = service._entry_point.__self__._handle_fn  # without the envelope

    def handle(self, data: list[dict[str, Any]], context: Context) -> list[Any]:
        """Return a body for each request of a batch, and set its status on the context."""
        rows: dict[int, Any] = {}
        raw: dict[int, Any] = {}
        answers: dict[int, Any | RequestError] = {}
        for index, item in enumerate(data):
            try:
                content_type = _get_media_type(context, index)
                if content_type in ("", envelope.JSON_TYPE):
                    rows[index] = _parse_instances(item)
                else:
                    raw[index] = _read_raw(item, content_type)
            except RequestError as error:
                answers[index] = error
        answers |= self._predict(self._handle_json, rows, context)
        answers |= self._predict(self._handle_raw, raw, context)
        return [_set_response(answers[index], context, index) for index in range(len(data))]

    def _predict(
        self, handle: Callable[..., Any], bodies: dict[int, Any], context: Context
    ) -> dict[int, Any | RequestError]:
        """Pass requests to the archive's handler together; if that fails, one by one."""
        if not bodies:
            return {}
        try:
            # Copied, because the envelope decodes base64 in place and a request may be repeated.
            data = [{"body": _copy(body)} for body in bodies.values()]
            results = handle(data, self._select_requests(context, list(bodies)))
        except Exception as error:  # noqa: BLE001  _to_request_error logs or answers it
            begun = [index for index in bodies if _has_begun(context, index) or len(bodies) == 1]
            failed = dict.fromkeys(begun, _to_request_error(error)) if begun else {}
            again = [
                self._predict(handle, {i: bodies[i]}, context) for i in bodies if i not in failed
            ]
            return {**failed, **{index: answer for each in again for index, answer in each.items()}}
        if not isinstance(results, list) or len(results) != len(bodies):
            is_list = isinstance(results, list)
            kind = f"{len(results)} responses" if is_list else type(results).__name__
            log.error("the archive's handler returned %s for %d requests", kind, len(bodies))
            failure = InternalError("the archive's handler returned no predictions")
            return dict.fromkeys(bodies, failure)
        return dict(zip(bodies, results, strict=True))

    def _select_requests(self, context: Context, indices: list[int]) -> Context:
        """Return a copy of the context with only these requests of the batch."""
        part = copy.copy(context)
        part.model_name = self._name
        part.request_processor = [context.request_processor[index] for index in indices]
        part.request_ids = {n: context.request_ids[index] for n, index in enumerate(indices)}
        return part


def _get_media_type(context: Context, index: int) -> str:
    """Return the content type of a request's body; "" without one."""
    content_type = (context.get_request_header(index, "body") or {}).get("content-type")
    names = ("Content-Type", "content-type")
    headers = (context.get_request_header(index, name) for name in names)
    return envelope.parse_media_type(content_type or next(filter(None, headers), ""))


def _has_begun(context: Context, index: int) -> bool:
    """Whether a part of a request's response has been sent, so that it cannot be repeated."""
    headers: dict[str, str] = context.get_response_headers(index)
    return headers.get("ts_stream_next") == "true"


def _read_raw(item: dict[str, Any], content_type: str) -> Any:
    """Return a body as TorchServe passes it: a text as str, all else as bytes; raise UnsupportedMediaTypeError."""
    if content_type in FORMS or "body" not in item:
        expected = "expected application/json, or the type of a file that is sent without a form"
        raise UnsupportedMediaTypeError(f"Content-Type: {expected}; got {content_type}")
    body = item["body"]
    if content_type.startswith("text/") and not isinstance(body, str):
        try:
            return bytes(body).decode()
        except UnicodeDecodeError:
            return body
    return body


def _parse_instances(item: dict[str, Any]) -> dict[str, Any]:
    """Return a request's document, with its instances; raise InvalidArgumentError if they cannot be decoded."""
    body = item.get("body", item.get("data"))
    if not isinstance(body, (bytes, bytearray)):
        raise InvalidArgumentError("expected a JSON body with Content-Type: application/json")
    instances = envelope.parse_body(bytes(body)).instances
    if isinstance(instances[0], dict):
        for index, instance in enumerate(instances):
            if not isinstance(instance, dict):
                reason = f"instances[{index}]: expected an object, like instances[0]"
                raise InvalidArgumentError(reason)
            for field, value in [("", instance), *((f".{k}", v) for k, v in instance.items())]:
                if isinstance(value, dict) and list(value) == ["b64"]:
                    _check_base64(value["b64"], f"instances[{index}]{field}.b64")
    return {"instances": instances}


def _copy(body: Any) -> Any:
    """Copy what the envelope changes: the array of instances and the objects in it."""
    if not isinstance(body, dict):
        return body
    instances = [dict(item) if isinstance(item, dict) else item for item in body["instances"]]
    return {"instances": instances}


def _check_base64(text: Any, path: str) -> None:
    if not isinstance(text, str):
        raise InvalidArgumentError(f"{path}: expected a string")
    try:
        is_invalid = bool(text) and not b64decode(text)
    except (binascii.Error, ValueError) as error:
        raise InvalidArgumentError(f"{path}: not base64: {error}") from None
    if is_invalid:
        raise InvalidArgumentError(f"{path}: not base64")


def _to_request_error(error: Exception) -> RequestError:
    """Return the 400 or 500 for an exception of the archive's handler; log those with a 500."""
    if isinstance(error, UnidentifiedImageError):
        return InvalidArgumentError("an instance is not an image in a readable format")
    if isinstance(error, PredictionException) and 400 <= error.error_code < 500:
        return InvalidArgumentError(error.message)
    log.error("the archive's handler failed", exc_info=error)
    return InternalError(f"the archive's handler failed: {type(error).__name__}")


def _set_response(answer: Any | RequestError, context: Context, index: int) -> Any:
    """Set the status of an error, and the content type where the archive's handler has set none."""
    is_raw = _get_media_type(context, index) not in ("", envelope.JSON_TYPE)
    has_type = context.get_response_content_type(index) is not None
    if not has_type and not (is_raw and isinstance(answer, (str, bytes))):
        context.set_response_content_type(index, "application/json")
    if not isinstance(answer, RequestError):
        return answer
    response = envelope.format_error(answer)
    context.set_response_status(int(response.code), response.code.phrase, index)
    return response.body
