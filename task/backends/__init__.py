"""Run a trained network with the fastest backend of this machine that keeps its predictions.

`make export` measures the backends and writes the choice to backend.json, which travels in the archive beside the
weights. A task uses it in three lines, of which the first two belong into its constructor:

    self.network = network                                   # what `make export` measures
    self.backend = load_backend(network, folder, example)    # example: an input of the network for one instance
    logits = self.backend(inputs)                            # in `inference`, instead of self.network(inputs)

The network takes one tensor and returns one, with N first in both. This package imports torch alone.
"""

from task.backends.builders import BACKENDS, Backend
from task.backends.choice import read_times
from task.backends.loading import load_backend

__all__ = ["BACKENDS", "Backend", "load_backend", "read_times"]
