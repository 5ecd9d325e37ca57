"""The handler of an adapted stock archive: calls the archive's own handler, isolates its errors.

The own handler's responses are returned unchanged: to JSON through TorchServe's JSON envelope, to a
body of another content type without it. Where the envelope would fail a whole batch with a 503 (a
body that is not JSON, missing instances, invalid base64, an exception), only the request concerned
gets an error here. Intermediate responses of the own handler are sent as in TorchServe.

SERVICE_ENVELOPE=none passes JSON without the envelope, too. WRAP_INSTANCES=data makes an instance
{"data": instance} where it is not, as Google's prebuilt images do in batch predictions.
"""

import json
import logging
import os
from collections.abc import Callable
from http import HTTPStatus
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ts.context import Context
from ts.model_loader import TsModelLoader
from ts.torch_handler.request_envelope.json import JSONEnvelope

if TYPE_CHECKING:
    from handler import envelope
    from handler.device_memory import is_out_of_memory, release_memory
    from handler.errors import RequestError
    from serving.stock import bodies, failures
else:  # the name in an archive, which may have a `handler` of its own
    from vertex_core import bodies, envelope, failures
    from vertex_core.device_memory import is_out_of_memory, release_memory
    from vertex_core.errors import RequestError

log = logging.getLogger(__name__)


class StockHandler:
    """Serves a handler made for `service_envelope=json`, or for raw bodies, with a status per request."""

    def initialize(self, context: Context) -> None:
        """Load the archive's own handler as TorchServe does; raise LoadError."""
        properties, stock = context.system_properties, context.manifest["model"]["stock"]
        self._folder = Path(properties["model_dir"])
        log_handlers = logging.root.handlers[:]
        try:
            service = TsModelLoader().load(
                stock["name"],
                properties["model_dir"],
                stock["handler"],
                properties["gpu_id"],
                properties["batch_size"],
                None,
                properties["limit_max_image_pixels"],
                context.metrics,
            )
        except BaseException as error:
            # TorchServe logs the traceback and retries; this line gives the reason at the log's end.
            failures.restore_logs(log_handlers)
            load_error = failures.to_load_error(error, stock["handler"], self._folder)
            log.error("cannot serve this archive: %s", load_error)
            raise load_error from error
        failures.restore_logs(log_handlers)
        self._context = service.context
        self._handle_raw = service._entry_point
        self._handle_json = JSONEnvelope(self._handle_instances).handle
        self._explain_json = JSONEnvelope(self._handle_raw).handle
        self._has_envelope = os.environ.get("SERVICE_ENVELOPE") != "none"
        self._instance_key = os.environ.get("WRAP_INSTANCES") or ""
        self._has_warned = False

    def handle(self, data: list[dict[str, Any]], context: Context) -> list[Any]:
        """Return a body for each request of a batch, and set its status on the context."""
        rows: dict[int, Any] = {}
        raw: dict[int, Any] = {}
        explained: dict[int, Any] = {}
        answers: dict[int, Any | RequestError] = {}
        for index, item in enumerate(data):
            try:
                media_type = _get_media_type(context, index)
                if media_type != envelope.JSON_TYPE and (media_type or not self._has_envelope):
                    raw[index] = bodies.read_raw(item, media_type)
                    continue
                body = document = bodies.parse_json(item)
                if self._has_envelope:
                    body = bodies.parse_instances(document, self._instance_key)
                group = rows if self._has_envelope else raw
                (explained if _is_explain(document) else group)[index] = body
            except RequestError as error:
                answers[index] = error
        answers |= self._predict(self._handle_json, rows, context)
        answers |= self._predict(self._handle_raw, raw, context)
        for index, body in explained.items():
            # The header that TorchServe adds to requests to /explanations; handlers read that of the first request.
            context.get_all_request_header(index)["explain"] = "True"
            explain = self._explain_json if self._has_envelope else self._handle_raw
            answers |= self._predict(explain, {index: body}, context)
        counts = {index: len(body["instances"]) for index, body in rows.items()}
        return [
            _set_response(answers[index], context, index, counts.get(index, 1))
            for index in range(len(data))
        ]

    def _handle_instances(self, instances: list[Any], context: Context) -> Any:
        """Call the archive's handler; raise CountError unless it returns one prediction per instance.

        An answer of its own to a request, a stream or an error status, may have another number.
        """
        results = self._handle_raw(instances, context)
        if len(context.request_processor) == 1:
            code, _ = context.get_response_status(0)
            if code >= HTTPStatus.BAD_REQUEST or _has_begun(context, 0):
                return results
        failures.check_count(results, len(instances), "instance")
        return results

    def _predict(
        self, handle: Callable[..., Any], requests: dict[int, Any], context: Context
    ) -> dict[int, Any | RequestError]:
        """Pass requests to the archive's handler together; if that fails, one by one."""
        if not requests:
            return {}
        self._select_requests(context, list(requests))
        try:
            # Copied, because the envelope decodes base64 in place and a request may be repeated.
            data = [{"body": bodies.copy_body(body)} for body in requests.values()]
            results = handle(data, self._context)
            failures.check_count(results, len(requests), "request")
            return dict(zip(requests, results, strict=True))
        except BaseException as raised:  # exit() and crashes of Rust code are no Exceptions
            if "serving_worker" in type(raised).__module__.split("."):
                raise  # the time is up, or the client has left
            error = raised
        if is_out_of_memory(error):
            release_memory(error)  # before requests are repeated
        # After the block: what a repetition raises does not have this exception as its context.
        return self._predict_again(handle, requests, context, error)

    def _predict_again(
        self,
        handle: Callable[..., Any],
        requests: dict[int, Any],
        context: Context,
        error: BaseException,
    ) -> dict[int, Any | RequestError]:
        """Pass requests whose batch has failed to the archive's handler one by one, if they can be repeated."""
        final = [index for index in requests if _has_begun(context, index)]
        if isinstance(error, failures.CountError) and not final:
            self._warn(error)
            if len(requests) == 1 and handle == self._handle_json:
                [(index, body)] = requests.items()
                if len(body["instances"]) > 1:
                    return {index: self._predict_each(index, body["instances"], context)}
        if len(requests) == 1:
            final = list(requests)
        answers: dict[int, Any | RequestError] = {}
        if final:
            answers = dict.fromkeys(final, failures.to_request_error(error, self._folder))
        for index in [index for index in requests if index not in answers]:
            answers |= self._predict(handle, {index: requests[index]}, context)
        return answers

    def _predict_each(
        self, index: int, instances: list[Any], context: Context
    ) -> str | RequestError:
        """Pass the instances of one request one by one; return its body."""
        predictions: list[Any] = []
        for instance in instances:
            request = {index: {"instances": [instance]}}
            answer = self._predict(self._handle_json, request, context)[index]
            code, _ = context.get_response_status(index)
            if isinstance(answer, RequestError) or code >= HTTPStatus.BAD_REQUEST:
                return answer
            predictions += json.loads(answer)["predictions"]
        return json.dumps({"predictions": predictions})

    def _warn(self, error: Exception) -> None:
        if not self._has_warned:
            self._has_warned = True
            log.warning("the archive's handler returned %s: these are passed one by one", error)

    def _select_requests(self, context: Context, indices: list[int]) -> None:
        """Put these requests of a batch into the context of the archive's own handler."""
        own = self._context
        own.request_processor = [context.request_processor[index] for index in indices]
        own.set_all_response_status()  # without what an attempt that failed has set
        own.request_ids = {n: context.request_ids[index] for n, index in enumerate(indices)}
        own.cl_socket = context.cl_socket


def _get_media_type(context: Context, index: int) -> str:
    """Return the content type of a request's body; "" without one."""
    content_type = (context.get_request_header(index, "body") or {}).get("content-type")
    names = ("Content-Type", "content-type")
    headers = (context.get_request_header(index, name) for name in names)
    return envelope.parse_media_type(content_type or next(filter(None, headers), ""))


def _is_explain(document: Any) -> bool:
    """Whether a request asks for explanations in place of predictions."""
    parameters = document.get("parameters") if isinstance(document, dict) else None
    return isinstance(parameters, dict) and parameters.get("explain") is True


def _has_begun(context: Context, index: int) -> bool:
    """Whether a part of a request's response has been sent, so that it cannot be repeated."""
    headers: dict[str, str] = context.get_response_headers(index)
    return headers.get("ts_stream_next") == "true"


def _set_response(answer: Any | RequestError, context: Context, index: int, instances: int) -> Any:
    """Set the status of an error, and the content type where the archive's handler has set none."""
    is_raw = _get_media_type(context, index) not in ("", envelope.JSON_TYPE)
    has_type = context.get_response_content_type(index) is not None
    if not has_type and not (is_raw and isinstance(answer, (str, bytes))):
        context.set_response_content_type(index, envelope.JSON_TYPE)
    if not isinstance(answer, RequestError):
        try:
            return bodies.check_response(answer, not is_raw, instances)
        except RequestError as error:
            log.error("%s", error)
            answer = error
    context.set_response_content_type(index, envelope.JSON_TYPE)
    response = envelope.format_error(answer)
    context.set_response_status(int(response.code), response.code.phrase, index)
    return response.body
