"""The archive's task, which all peers call; it lacks the handler's validation of requests."""

import os
import sys
from pathlib import Path
from typing import Any

import orjson
import torch

ARCHIVE = Path(os.environ["ARCHIVE"])
"""The folder of the unpacked archive."""
WORKERS = int(os.environ["WORKERS"])
THREADS = int(os.environ["THREADS"])
PORT = int(os.environ["PORT"])
MAX_BATCH_SIZE = int(os.environ["MAX_BATCH_SIZE"])

sys.path.insert(0, str(ARCHIVE))


class Core:
    """A loaded task."""

    def __init__(self) -> None:
        from model import load  # noqa: PLC0415  from the archive, on sys.path

        torch.set_num_threads(THREADS)
        self.task = load(ARCHIVE, torch.device("cpu"))

    def predict(self, requests: list[list[Any]]) -> list[list[Any]]:
        """Return the predictions of several requests' instances, from one pass."""
        tensors = [self.task.preprocess(each) for instances in requests for each in instances]
        with torch.inference_mode():
            rows = iter(self.task.inference(torch.stack(tensors)))
        return [[self.task.postprocess(next(rows), {}) for _ in each] for each in requests]

    def predict_json(self, body: bytes) -> bytes:
        """Return the response to a request, both JSON."""
        (predictions,) = self.predict([orjson.loads(body)["instances"]])
        return orjson.dumps({"predictions": predictions})
