"""A model of the tests that predicts what its instance contains, so that a test can choose the prediction."""

import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import torch


def load(_folder: Path, _device: torch.device) -> "Echo":
    """Return a model without weights."""
    return Echo()


class Echo:
    """Every step returns its argument."""

    labels = ("cat", "dog", "bird")

    def preprocess(self, instance: Any) -> Any:
        """Return the instance."""
        return instance

    def collate(self, samples: list[Any]) -> list[Any]:
        """Return the samples."""
        return samples

    def inference(self, batch: list[Any]) -> list[Any]:
        """Return the samples."""
        return batch

    def stream(self, sample: Any) -> Iterator[Any]:
        """Yield the parts that the instance contains; the last one when the file `wait` exists."""
        *parts, last = sample["parts"]
        yield from parts
        deadline = time.monotonic() + 20
        while "wait" in sample and not Path(sample["wait"]).exists():
            if time.monotonic() > deadline:
                raise TimeoutError(sample["wait"])
            time.sleep(0.02)
        if last == "fail":
            raise RuntimeError("the stream fails")
        yield last

    def postprocess(self, output: Any, _parameters: dict[str, Any]) -> Any:
        """Return the prediction that the instance contains."""
        return output["prediction"]
