"""The archive's entry: adapts TorchServe's (data, context) to requests and responses.

TorchServe's worker imports this file by its name, expects exactly one class in it, calls `initialize` once and
`handle` for every batch.
"""

import logging
from http import HTTPStatus
from pathlib import Path
from typing import Any

import torch

from handler import batch, envelope
from handler.envelope import Request
from handler.errors import InvalidArgumentError, RequestError
from handler.loading import load_and_check
from task.adapter import AdaptedTask

log = logging.getLogger(__name__)


class VertexHandler:
    """Serves Vertex AI's JSON without TorchServe's `service_envelope`."""

    task: AdaptedTask

    def initialize(self, context: Any) -> None:
        """Load the model from the archive and check its requests; raise if either fails."""
        properties = context.system_properties
        try:
            folder, device = Path(properties["model_dir"]), _device(properties.get("gpu_id"))
            self.task = load_and_check(folder, device)
        except Exception as error:
            # TorchServe logs the traceback and retries; this line gives the reason at the log's end.
            reason = " ".join(str(error).split())
            log.error("cannot serve this archive: %s: %s", type(error).__name__, reason)
            raise

    def handle(self, data: list[dict[str, Any]], context: Any) -> list[str]:
        """Return a JSON body for each request of a batch, and set its status on the context."""
        # Our worker sets on_timings, TorchServe's own does not.
        on_timings = getattr(context, "on_timings", None)
        responses = batch.predict_batch(self.task, (_parse(item) for item in data), on_timings)
        for index, response in enumerate(responses):
            context.set_response_status(int(response.code), response.code.phrase, index)
            context.set_response_content_type(index, "application/json")
            if response.code is HTTPStatus.INTERNAL_SERVER_ERROR:
                context.set_response_header(index, envelope.ERROR_HEADER, response.body)
        return [response.body for response in responses]


def _device(gpu_id: int | None) -> torch.device:
    if gpu_id is not None and torch.cuda.is_available():
        return torch.device("cuda", gpu_id)
    return torch.device("cpu")


def _parse(item: dict[str, Any]) -> Request | RequestError:
    """Parse a request as TorchServe passes it: raw bytes, or JSON that TorchServe has parsed."""
    try:
        if "body" not in item:
            raise InvalidArgumentError("expected a JSON body with Content-Type: application/json")
        body = item["body"]
        if isinstance(body, (bytes, bytearray)):
            return envelope.parse_body(bytes(body))
        return envelope.parse_document(body)
    except RequestError as error:
        return error.with_traceback(None)  # a traceback would keep the whole body in memory
