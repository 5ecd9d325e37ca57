"""The archive's entry: TorchServe's (data, context) -> bodies and statuses.

The only file that knows TorchServe. Its worker imports this file by name, wants exactly
one class in it, calls `initialize` once and `handle` for every batch, one body a request.
"""

import functools
import logging
from http import HTTPStatus
from pathlib import Path
from typing import Any

import torch

from handler import batch, envelope, golden
from handler.envelope import Request
from handler.errors import InvalidArgument
from model.task import load
from task import Task

log = logging.getLogger(__name__)


class VertexHandler:
    """Speaks Vertex AI's JSON itself, without TorchServe's `service_envelope`."""

    task: Task

    def initialize(self, context: Any) -> None:
        """Load the task from the archive and see it answer its golden instance; raise if not."""
        properties = context.system_properties
        try:
            self.task = load(Path(properties["model_dir"]), _device(properties.get("gpu_id")))
            golden.check(self.task)
        except Exception as error:
            # TorchServe logs the traceback and retries; this line is for who reads the log's end.
            reason = " ".join(str(error).split())
            log.error("cannot serve this archive: %s: %s", type(error).__name__, reason)
            raise

    def handle(self, data: list[dict[str, Any]], context: Any) -> list[str]:
        """Answer a batch of requests: one JSON text for each, with its own status."""
        reads = [functools.partial(_read, item) for item in data]
        # serving/worker wants to know; TorchServe's own worker does not.
        responses = batch.predict_batch(self.task, reads, getattr(context, "tell_stages", None))
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


def _read(item: dict[str, Any]) -> Request:
    """Take a request out of what TorchServe gives: raw bytes, or parsed JSON where it decodes."""
    if "body" not in item:
        raise InvalidArgument("expected a JSON body with Content-Type: application/json")
    body = item["body"]
    if isinstance(body, (bytes, bytearray)):
        return envelope.parse_body(bytes(body))
    return envelope.parse_document(body)
