"""The interface between the handler and a model.

A model is a folder with a `model.py` that defines `load(folder, device) -> Task`. The handler calls `load` once per
worker, and afterwards only the methods of `Task` and those of `TaskOptions` that the task has:

    instance --preprocess--> sample --collate--> batch --inference--> output --postprocess--> prediction

This package imports neither the handler nor a model.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, NamedTuple, Protocol

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping, Sequence
    from pathlib import Path

    from torch import device, nn

JSON = Any
"""A value that `json.loads` returns: None, bool, int, float, str, list or dict."""
Sample = Any
"""What `preprocess` returns for one instance: a tensor, a dict or tuple of tensors, or anything else."""
Batch = Any
"""What `collate` returns for N samples. Its tensors are on the device."""


class BadInstance(Exception):  # noqa: N818  public interface
    """An instance is invalid. The text says what is wrong and what was expected.

    Every method may raise it. The client gets a 400 with this text and the index of the instance. Any other
    exception of a task is a server error: a 500 without its text.
    """


class BadParameter(Exception):  # noqa: N818  public interface
    """The `parameters` of a request are invalid. The client gets a 400 with this text.

    Every method may raise it. A text that begins with a parameter's name, such as "top_k: expected ...", is returned
    as "parameters.top_k: expected ...".
    """


class Golden(NamedTuple):
    """An instance and its expected prediction, by which a model without requests.json is checked."""

    instance: JSON
    """The instance as a client would send it."""
    expected: JSON
    """The prediction. An object may leave out keys; floats may differ by 0.1 %, as they do between CPUs."""


class Task(Protocol):
    """A model that can be served. Implementations do not have to inherit from this class."""

    def preprocess(self, instance: JSON, parameters: dict[str, JSON]) -> Sample:
        """Return the sample for one instance of a request with these parameters.

        The handler calls it from several threads. `parameters` may be left out of the signature. With type hints,
        such as a TypedDict, a value that does not match them gets a 400 before this method is called.
        """
        ...

    def inference(self, batch: Batch) -> Any:
        """Return N outputs for a batch of N samples, in the same order.

        An output is a tensor or array whose first dimension is N, a list of N values, or a dict or tuple of
        these. The handler splits it along N and moves its tensors to the CPU. Gradients are off.
        """
        ...

    def postprocess(self, output: Any, parameters: dict[str, JSON]) -> JSON:
        """Return the prediction for the output of one sample.

        Tensors and arrays in it are returned to the client as arrays, and bytes as {"b64": "..."}.
        """
        ...


class TaskOptions(Task, Protocol):
    """Members that a task may also have. None of them is required."""

    labels: Sequence[str]
    """The names of a classifier's classes."""
    accepts: Sequence[str]
    """The content types that a raw request body may have, such as "image/jpeg" or "image/*".

    Such a body is one instance: a str for text/*, else bytes.
    """
    network: nn.Module
    """The network, whose backends `make export` measures."""
    golden: Golden
    """The check of a model without requests.json."""

    def collate(self, samples: list[Sample]) -> Batch:
        """Return the batch of N samples; `pad` is one for samples of different lengths.

        Without this method samples with tensors of equal shapes are batched by torch's `default_collate`, and
        samples that it cannot batch are passed to `inference` as a list.
        """
        ...

    def size(self, sample: Sample) -> float:
        """Return the cost of a sample, such as its number of tokens.

        The largest sample of a batch is at most twice the size of its smallest, so that short texts are not
        padded to the length of long ones.
        """
        ...

    def stream(self, sample: Sample, parameters: dict[str, JSON]) -> Iterator[JSON]:
        """Yield the parts of a prediction as they are computed, such as tokens.

        The sample's tensors are on the device. A client that requests a stream gets each part at once. Between two
        parts other requests are answered. If the client leaves, the generator is closed.
        """
        ...

    def explain(self, sample: Sample, parameters: dict[str, JSON]) -> JSON:
        """Return the explanation of the prediction for one sample, such as how much each feature adds to it.

        The sample's tensors are on the device, and gradients are on. A client that requests an explanation gets it in
        place of the prediction; tensors, arrays and bytes in it are returned as those of a prediction.
        """
        ...


class Load(Protocol):
    """The signature of `load` in model.py."""

    def __call__(self, folder: Path, device: device) -> Task:
        """Load the files in `folder` onto `device`; raise an exception if they are unusable."""
        ...


def pad(samples: Sequence[Sample], value: float | Mapping[str, float] = 0) -> Batch:
    """Batch samples whose tensors differ in length: pad each tensor at its end to the largest shape.

    Call it in a task's `collate`. Samples may be tensors, or dicts and tuples of them; what is not a tensor is
    batched as by torch's `default_collate`. The default value, 0, is also what an attention mask has for padding.
    For dicts `value` may map keys to values; keys that it leaves out are padded with 0.
    """
    from task.padding import pad_samples  # noqa: PLC0415  so that importing task does not import torch

    return pad_samples(samples, value)
