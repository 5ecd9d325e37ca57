"""The entry of a stock archive: its own handler and TorchServe's JSON envelope, errors told apart.

What the archive's handler answers is passed on untouched. What TorchServe's envelope would
turn into a 503 for everybody (a body that is no JSON, no instances, base64 that is none, a
handler that raises) becomes an error for the one request that it belongs to.
"""

import binascii
import copy
import logging
from base64 import b64decode
from http import HTTPStatus
from typing import TYPE_CHECKING, Any

from PIL import UnidentifiedImageError
from ts.model_loader import TsModelLoader
from ts.utils.util import PredictionException

if TYPE_CHECKING:
    from handler import envelope
    from handler.errors import Internal, InvalidArgument, RequestError
else:  # in an archive it lies under a name of its own: archives have a `handler` themselves
    from vertex_core import envelope
    from vertex_core.errors import Internal, InvalidArgument, RequestError

log = logging.getLogger(__name__)


class StockHandler:
    """Serves a handler made for `service_envelope=json`, request by request."""

    def initialize(self, context: Any) -> None:
        """Load the archive's own handler as TorchServe does; raise what it raises."""
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
            # TorchServe logs the traceback and retries; this line is for who reads the log's end.
            reason = " ".join(str(error).split())
            log.error("cannot serve this archive: %s: %s", type(error).__name__, reason)
            raise
        self._name = stock["name"]
        self._entry = service._entry_point

    def handle(self, data: list[dict[str, Any]], context: Any) -> list[str]:
        """Answer a batch of requests, each with its own status."""
        rows: dict[int, list[Any]] = {}
        answers: dict[int, str | RequestError] = {}
        for index, item in enumerate(data):
            try:
                rows[index] = _instances(item)
            except RequestError as error:
                answers[index] = error
        answers |= self._answer(rows, context)
        return [_write(answers[index], context, index) for index in range(len(data))]

    def _answer(self, rows: dict[int, list[Any]], context: Any) -> dict[int, str | RequestError]:
        """Give requests to the archive's handler, together; where that fails, one by one."""
        if not rows:
            return {}
        try:
            # The envelope decodes base64 in place, and a request may have to go again.
            bodies = [{"body": {"instances": _copy(one)}} for one in rows.values()]
            texts = self._entry(bodies, self._part(context, list(rows)))
        except Exception as error:  # noqa: BLE001  whatever it is, _fault logs or answers it
            if len(rows) > 1:
                return {
                    index: answer
                    for index, one in rows.items()
                    for answer in self._answer({index: one}, context).values()
                }
            return {next(iter(rows)): _fault(error)}
        if not isinstance(texts, list) or len(texts) != len(rows):
            kind = f"{len(texts)} answers" if isinstance(texts, list) else type(texts).__name__
            log.error("the archive's handler gave %s to %d requests", kind, len(rows))
            return dict.fromkeys(rows, Internal("the archive's handler gave no predictions"))
        return dict(zip(rows, texts, strict=True))

    def _part(self, context: Any, chosen: list[int]) -> Any:
        """Return a context for some of the batch's requests."""
        part = copy.copy(context)
        part.model_name = self._name
        part.request_processor = [context.request_processor[index] for index in chosen]
        part.request_ids = {n: context.request_ids[index] for n, index in enumerate(chosen)}
        return part


def _instances(item: dict[str, Any]) -> list[Any]:
    """Take the instances out of a request; raise InvalidArgument for what cannot be decoded."""
    body = item.get("body", item.get("data"))
    if not isinstance(body, (bytes, bytearray)):
        raise InvalidArgument("expected a JSON body with Content-Type: application/json")
    instances = envelope.parse_body(bytes(body)).instances
    if isinstance(instances[0], dict):
        for index, instance in enumerate(instances):
            if not isinstance(instance, dict):
                raise InvalidArgument(f"instances[{index}]: expected an object, as instances[0] is")
            for where, value in [("", instance), *((f".{k}", v) for k, v in instance.items())]:
                if isinstance(value, dict) and list(value) == ["b64"]:
                    _see_that_it_decodes(value["b64"], f"instances[{index}]{where}.b64")
    return instances


def _copy(instances: list[Any]) -> list[Any]:
    """Copy what the envelope changes: the list, and the objects in it."""
    return [dict(one) if isinstance(one, dict) else one for one in instances]


def _see_that_it_decodes(text: Any, where: str) -> None:
    if not isinstance(text, str):
        raise InvalidArgument(f"{where}: expected a string")
    try:
        junk = bool(text) and not b64decode(text)
    except (binascii.Error, ValueError) as error:
        raise InvalidArgument(f"{where}: not base64: {error}") from None
    if junk:
        raise InvalidArgument(f"{where}: not base64")


def _fault(error: Exception) -> RequestError:
    """Say whose fault it is that the archive's handler raised; log it where it is not plain."""
    if isinstance(error, UnidentifiedImageError):
        return InvalidArgument("an instance is no picture that can be read")
    if isinstance(error, PredictionException) and 400 <= error.error_code < 500:
        return InvalidArgument(error.message)
    log.error("the archive's handler failed", exc_info=error)
    return Internal(f"the archive's handler failed: {type(error).__name__}")


def _write(answer: str | RequestError, context: Any, index: int) -> str:
    if context.get_response_content_type(index) is None:
        context.set_response_content_type(index, "application/json")
    if not isinstance(answer, RequestError):
        return answer
    response = envelope.format_error(answer)
    context.set_response_status(int(response.code), response.code.phrase, index)
    if response.code is HTTPStatus.INTERNAL_SERVER_ERROR:
        context.set_response_header(index, envelope.ERROR_HEADER, response.body)
    return response.body
