"""Calls to Google's APIs for one project and region."""

from typing import Any

from deploy.google.around import Around
from deploy.google.artifacts import Artifacts
from deploy.google.batches import Batches
from deploy.google.vertex import Vertex

__all__ = ["Google"]


class Google(Vertex, Batches, Artifacts, Around):
    """One project and region of Google Cloud, and everything that is done there."""

    def _operations(self, operation: str) -> Any:
        vertex = "/endpoints/" in operation or "/models/" in operation
        return self._endpoints if vertex else self._registry
