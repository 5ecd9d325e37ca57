"""Run a trained network with the fastest backend of this machine that keeps its predictions.

The package travels in the archive and imports torch alone. `model/export` measures the backends and writes
the choice to backend.json beside the weights; a task passes its network to `load_backend`.
"""

from task.backends.builders import BACKENDS, Backend
from task.backends.loading import load_backend

__all__ = ["BACKENDS", "Backend", "load_backend"]
