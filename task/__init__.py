"""The one seam: what a model owes the handler, in five names.

`model/task.py` has a function `load(folder, device) -> Task`; the handler calls it
once per worker and then knows nothing but the methods below. This package imports
neither the handler nor the model, so that both can lean on it.
"""

from pathlib import Path
from typing import Any, NamedTuple, Protocol

from torch import Tensor, device

JSON = Any
"""A value as `json.loads` gives it: None, bool, int, float, str, list or dict."""


class BadInstance(Exception):
    """An instance that the client has to mend; the text says what was wrong and what was expected.

    It becomes a 400 that names the instance. Any other exception out of a task is our
    own fault and becomes a 500, so raise this one only for the client's.
    """


class BadParameter(Exception):
    """A request's `parameters` that the client has to mend; it becomes a 400 for that request."""


class Golden(NamedTuple):
    """A request that a healthy model answers as it did when it was trained."""

    instance: JSON
    """One instance, as a client would send it."""
    expected: JSON
    """The prediction; of an object, the keys that matter are enough."""


class Task(Protocol):
    """A model that can be served. Implementations need not inherit from this class."""

    golden: Golden

    def preprocess(self, instance: JSON) -> Tensor:
        """Turn one instance into one tensor, of the same shape and dtype for every instance.

        Raises BadInstance where the instance cannot be read.
        """
        ...

    def inference(self, batch: Tensor) -> Tensor:
        """Answer a batch of N stacked tensors with N rows, in the same order.

        The batch comes on the CPU, where `preprocess` left it; the rows may be on any device.
        """
        ...

    def postprocess(self, row: Tensor, parameters: dict[str, JSON]) -> JSON:
        """Turn one row into one prediction, a value that `json.dumps` takes.

        Raises BadParameter where `parameters` cannot be followed.
        """
        ...


class Load(Protocol):
    """The signature of `model.task.load`."""

    def __call__(self, folder: Path, device: device) -> Task:
        """Load what the archive carries in `folder` onto `device`; raise where it cannot."""
        ...
