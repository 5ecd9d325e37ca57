"""The handler of an adapted stock archive: calls the archive's own handler, isolates its errors.

The own handler's responses are returned unchanged, through TorchServe's JSON envelope. Where the
envelope would fail a whole batch with a 503 (a body that is not JSON, missing instances, invalid
base64, an exception), only the request concerned gets an error here.
"""

import binascii
import copy
import logging
from base64 import b64decode
from http import HTTPStatus
from typing import TYPE_CHECKING, Any

from PIL import UnidentifiedImageError
from ts.context import Context
from ts.model_loader import TsModelLoader
from ts.utils.util import PredictionException

if TYPE_CHECKING:
    from handler import envelope
    from handler.errors import InternalError, InvalidArgumentError, RequestError
else:  # the name in an archive, which may have a `handler` of its own
    from vertex_core import envelope
    from vertex_core.errors import InternalError, InvalidArgumentError, RequestError

log = logging.getLogger(__name__)


class StockHandler:
    """Serves a handler made for `service_envelope=json`, with a status per request."""

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
        self._entry = service._entry_point

    def handle(self, data: list[dict[str, Any]], context: Context) -> list[str]:
        """Return a body for each request of a batch, and set its status on the context."""
        rows: dict[int, list[Any]] = {}
        answers: dict[int, str | RequestError] = {}
        for index, item in enumerate(data):
            try:
                rows[index] = _parse_instances(item)
            except RequestError as error:
                answers[index] = error
        answers |= self._predict(rows, context)
        return [_set_response(answers[index], context, index) for index in range(len(data))]

    def _predict(
        self, rows: dict[int, list[Any]], context: Context
    ) -> dict[int, str | RequestError]:
        """Pass requests to the archive's handler together; if that fails, one by one."""
        if not rows:
            return {}
        try:
            # Copied, because the envelope decodes base64 in place and a request may be repeated.
            bodies = [{"body": {"instances": _copy(instances)}} for instances in rows.values()]
            texts = self._entry(bodies, self._select_requests(context, list(rows)))
        except Exception as error:  # noqa: BLE001  _to_request_error logs or answers it
            if len(rows) > 1:
                return {
                    index: answer
                    for index, instances in rows.items()
                    for answer in self._predict({index: instances}, context).values()
                }
            return {next(iter(rows)): _to_request_error(error)}
        if not isinstance(texts, list) or len(texts) != len(rows):
            kind = f"{len(texts)} responses" if isinstance(texts, list) else type(texts).__name__
            log.error("the archive's handler returned %s for %d requests", kind, len(rows))
            failure = InternalError("the archive's handler returned no predictions")
            return dict.fromkeys(rows, failure)
        return dict(zip(rows, texts, strict=True))

    def _select_requests(self, context: Context, indices: list[int]) -> Context:
        """Return a copy of the context with only these requests of the batch."""
        part = copy.copy(context)
        part.model_name = self._name
        part.request_processor = [context.request_processor[index] for index in indices]
        part.request_ids = {n: context.request_ids[index] for n, index in enumerate(indices)}
        return part


def _parse_instances(item: dict[str, Any]) -> list[Any]:
    """Return a request's instances; raise InvalidArgumentError if they cannot be decoded."""
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
    return instances


def _copy(instances: list[Any]) -> list[Any]:
    """Copy what the envelope changes: the list and the objects in it."""
    return [dict(item) if isinstance(item, dict) else item for item in instances]


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


def _set_response(answer: str | RequestError, context: Context, index: int) -> str:
    if context.get_response_content_type(index) is None:
        context.set_response_content_type(index, "application/json")
    if not isinstance(answer, RequestError):
        return answer
    response = envelope.format_error(answer)
    context.set_response_status(int(response.code), response.code.phrase, index)
    if response.code is HTTPStatus.INTERNAL_SERVER_ERROR:
        context.set_response_header(index, envelope.ERROR_HEADER, response.body)
    return response.body
