"""A handler as the samples have it: preprocess, inference, postprocess, behind the JSON envelope.

The task and the engine are those of our own archive; what differs is the server.
"""

import base64
from pathlib import Path
from typing import Any

import torch


class StockHandler:
    """Answers the instances of one request."""

    def initialize(self, context: Any) -> None:
        from model.task import load  # noqa: PLC0415  the archive's

        self.task = load(Path(context.system_properties["model_dir"]), torch.device("cpu"))

    def handle(self, data: list[bytes], _context: Any) -> list[Any]:
        # The envelope has decoded the base64; the task takes a request's own words.
        instances = [{"b64": base64.b64encode(picture).decode()} for picture in data]
        tensors = torch.stack([self.task.preprocess(instance) for instance in instances])
        with torch.inference_mode():
            rows = self.task.inference(tensors)
        return [self.task.postprocess(row, {}) for row in rows]
