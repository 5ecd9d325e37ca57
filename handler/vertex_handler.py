"""The archive's entry: adapts TorchServe's (data, context) to requests and responses.

TorchServe's worker imports this file by its name, expects exactly one class in it, calls `initialize` once and
`handle` for every batch.
"""

import logging
from collections.abc import Iterator, Mapping
from http import HTTPStatus
from pathlib import Path
from typing import Any

import torch

from handler import batch, bodies, envelope
from handler.envelope import Request
from handler.errors import LoadError, RequestError
from handler.loading import load_and_check
from task.adapter import AdaptedTask

log = logging.getLogger(__name__)


class VertexHandler:
    """Serves Vertex AI's JSON without TorchServe's `service_envelope`."""

    task: AdaptedTask

    def initialize(self, context: Any) -> None:
        """Load the model from the archive and check its requests; raise LoadError."""
        properties = context.system_properties
        try:
            folder, device = Path(properties["model_dir"]), _device(properties.get("gpu_id"))
            self.task = load_and_check(folder, device)
        except (Exception, SystemExit) as error:
            # TorchServe logs the traceback and retries; this line gives the reason at the log's end.
            reason = f"{type(error).__name__}: {' '.join(str(error).split())}"
            log.error("cannot serve this archive: %s", reason)
            raise LoadError(reason) from error

    def handle(self, data: list[dict[str, Any]], context: Any) -> list[str | Iterator[str]]:
        """Return a body for each request of a batch, and set its status and content type on the context.

        The body of a stream is an iterator of its parts if the context has a true `takes_iterators`, as our
        worker sets it. The status is final before the first part is taken; `close` ends the stream.
        """
        # Our worker sets on_timings, TorchServe's own does not.
        on_timings = getattr(context, "on_timings", None)
        requests = (self._parse(item, context, index) for index, item in enumerate(data))
        responses = batch.predict_batch(self.task, requests, on_timings)
        for index, response in enumerate(responses):
            if response.code != HTTPStatus.OK:
                context.set_response_status(int(response.code), response.code.phrase, index)
            context.set_response_content_type(index, response.content_type)
        if getattr(context, "takes_iterators", False):
            return [response.chunks or response.body for response in responses]
        return [response.body or "".join(response.chunks or ()) for response in responses]

    def _parse(self, item: dict[str, Any], context: Any, index: int) -> Request | RequestError:
        """Parse a request as TorchServe passes it: raw bytes, or what TorchServe has decoded."""
        headers = context.get_all_request_header(index)
        content_type = (headers.get("body") or {}).get("content-type")
        content_type = content_type or _find_header(headers, "Content-Type")
        accept = _find_header(headers, "Accept")
        try:
            body = item.get("body", b"")  # TorchServe decodes a form, which no model accepts
            if isinstance(body, (bytes, bytearray)):
                return bodies.parse_request(self.task, bytes(body), content_type, accept)
            if isinstance(body, str):
                return bodies.parse_request(self.task, body.encode(), content_type, accept)
            return envelope.parse_document(body, accept or "")
        except RequestError as error:
            return error.with_traceback(None)  # a traceback would keep the whole body in memory


def _device(gpu_id: int | None) -> torch.device:
    if gpu_id is not None and torch.cuda.is_available():
        return torch.device("cuda", gpu_id)
    return torch.device("cpu")


def _find_header(headers: Mapping[str, Any], name: str) -> Any:
    """Return a header of a request or None; clients write its name in capitals or in lowercase."""
    return headers.get(name) or headers.get(name.lower())
