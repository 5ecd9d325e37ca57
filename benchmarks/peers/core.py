"""What all peers call: an archive's task, without the handler's care for bad input."""

import os
import sys
from pathlib import Path
from typing import Any

import orjson
import torch

ARCHIVE = Path(os.environ["ARCHIVE"])
"""A folder: the archive, unpacked."""
WORKERS = int(os.environ["WORKERS"])
THREADS = int(os.environ["THREADS"])
PORT = int(os.environ["PORT"])
LARGEST_BATCH = int(os.environ["LARGEST_BATCH"])

sys.path.insert(0, str(ARCHIVE))


class Core:
    """A loaded task."""

    def __init__(self) -> None:
        from model.task import load  # noqa: PLC0415  the archive's, which is on the path by now

        torch.set_num_threads(THREADS)
        self.task = load(ARCHIVE, torch.device("cpu"))

    def predict(self, requests: list[list[Any]]) -> list[list[Any]]:
        """Answer the instances of many requests in one pass."""
        tensors = [self.task.preprocess(one) for instances in requests for one in instances]
        with torch.inference_mode():
            rows = iter(self.task.inference(torch.stack(tensors)))
        return [
            [self.task.postprocess(next(rows), {}) for _ in instances] for instances in requests
        ]

    def answer(self, body: bytes) -> bytes:
        """Answer one request's JSON with JSON."""
        (predictions,) = self.predict([orjson.loads(body)["instances"]])
        return orjson.dumps({"predictions": predictions})
