"""A handler like that of the samples: preprocess, inference, postprocess, with the JSON envelope.

The task and its backend are those of our archive, so that only the servers differ.
"""

import base64
from pathlib import Path
from typing import Any

import torch


class StockHandler:
    """Predicts the instances of one request."""

    def initialize(self, context: Any) -> None:
        from model import load  # noqa: PLC0415  from the archive

        self.task = load(Path(context.system_properties["model_dir"]), torch.device("cpu"))

    def handle(self, data: list[bytes], _context: Any) -> list[Any]:
        # The envelope has decoded the base64; the task expects the JSON of a request.
        instances = [{"b64": base64.b64encode(picture).decode()} for picture in data]
        tensors = torch.stack([self.task.preprocess(instance) for instance in instances])
        with torch.inference_mode():
            rows = self.task.inference(tensors)
        return [self.task.postprocess(row, {}) for row in rows]
