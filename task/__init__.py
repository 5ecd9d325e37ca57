"""The interface between the handler and a model.

`model/task.py` defines `load(folder, device) -> Task`. The handler calls it once per worker, and afterwards only
the methods below. This package imports neither the handler nor the model.
"""

from pathlib import Path
from typing import Any, NamedTuple, Protocol

from torch import Tensor, device

JSON = Any
"""A value that `json.loads` returns: None, bool, int, float, str, list or dict."""


class BadInstance(Exception):  # noqa: N818  public interface
    """An instance is invalid. The text says what is wrong and what was expected.

    The client gets a 400 with this text and the index of the instance. Any other exception of a task is a
    server error: a 500 without its text.
    """


class BadParameter(Exception):  # noqa: N818  public interface
    """The `parameters` of a request are invalid. The client gets a 400 with this text."""


class Golden(NamedTuple):
    """An instance and its expected prediction, by which a loaded model is checked."""

    instance: JSON
    """The instance as a client would send it."""
    expected: JSON
    """The prediction. An object may leave out keys; floats may differ by 0.1 %, as they do between CPUs."""


class Task(Protocol):
    """A model that can be served. Implementations do not have to inherit from this class."""

    golden: Golden

    def preprocess(self, instance: JSON) -> Tensor:
        """Return a tensor, of the same shape and dtype for every instance.

        Raises BadInstance if the instance is invalid.
        """
        ...

    def inference(self, batch: Tensor) -> Tensor:
        """Return N rows for a batch of N stacked tensors, in the same order.

        The batch is on the CPU, like the tensors of `preprocess`; the rows may be on any device.
        """
        ...

    def postprocess(self, row: Tensor, parameters: dict[str, JSON]) -> JSON:
        """Return the prediction for one row, a value that `json.dumps` accepts.

        Raises BadParameter if `parameters` are invalid.
        """
        ...


class Load(Protocol):
    """The signature of `model.task.load`."""

    def __call__(self, folder: Path, device: device) -> Task:
        """Load the archive's files in `folder` onto `device`; raise an exception if they are unusable."""
        ...
