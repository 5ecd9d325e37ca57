"""A model on a device that is simulated: it runs one pass at a time, which takes a time but none of a core's.

So the effect of workers, batches and delays can be compared on a machine without a GPU.
"""

import fcntl
import hashlib
import json
import os
import time
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

HASHED_BYTES_PER_MS = 300_000
"""About what a core hashes in a millisecond, without the interpreter's lock, as decoders of pictures work."""


def load(folder: Path, device: torch.device) -> "SimulatedTask":  # noqa: ARG001
    """Open the device; config.json has the milliseconds of preprocessing and of a pass."""
    return SimulatedTask(folder, **json.loads((folder / "config.json").read_text()))


class SimulatedTask:
    """Returns the sum of a row."""

    def __init__(
        self, folder: Path, preprocess_ms: float, pass_ms: float, sample_ms: float
    ) -> None:
        """Share the device with all processes that load the same folder."""
        self._data = bytes(int(preprocess_ms * HASHED_BYTES_PER_MS))
        self._pass_s, self._sample_s = pass_ms / 1000, sample_ms / 1000
        self._device = os.open(folder / "device.lock", os.O_RDWR | os.O_CREAT, 0o600)

    def preprocess(self, instance: list[float]) -> Tensor:
        """Return (N,) float32."""
        hashlib.sha256(self._data).digest()
        return torch.tensor(instance)

    def inference(self, batch: Tensor) -> Tensor:
        """Occupy the device for the time of a pass."""
        fcntl.flock(self._device, fcntl.LOCK_EX)
        try:
            time.sleep(self._pass_s + len(batch) * self._sample_s)
        finally:
            fcntl.flock(self._device, fcntl.LOCK_UN)
        return batch.sum(1, keepdim=True)

    def postprocess(self, output: Tensor) -> dict[str, Any]:
        """Return the sum."""
        return {"sum": round(float(output), 3)}
