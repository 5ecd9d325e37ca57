"""The archive's model, which all peers call; it lacks the handler's validation of requests."""

import base64
import os
from pathlib import Path
from typing import Any

import orjson
import torch

from benchmarks import bare
from benchmarks.peers import LOADED

WORKERS = int(os.environ["WORKERS"])
THREADS = int(os.environ["THREADS"])
PORT = int(os.environ["PORT"])
MAX_BATCH_SIZE = int(os.environ["MAX_BATCH_SIZE"])
DEVICE = os.environ["DEVICE"]
PREPROCESS_THREADS = THREADS if DEVICE != "cpu" else 1
"""While a GPU computes, the cores of a process have nothing else to do than to preprocess."""


class Core:
    """A loaded model."""

    def __init__(self) -> None:
        torch.set_num_threads(THREADS)
        self._task = bare.load(Path(os.environ["ARCHIVE"]), DEVICE)
        print(LOADED, flush=True)

    def predict(self, bodies: list[dict[str, Any]]) -> list[bytes]:
        """Return the response to each request, as JSON, from the same passes."""
        return [
            orjson.dumps({"predictions": predictions}, default=_convert)
            for predictions in bare.predict(self._task, bodies, threads=PREPROCESS_THREADS)
        ]


def _convert(value: Any) -> Any:
    """Return tensors and arrays as lists, and bytes as base64, as the handler does."""
    if hasattr(value, "tolist"):
        return value.tolist()
    return {"b64": base64.b64encode(value).decode()}
