"""Calls to Google's APIs for one project and region."""

from deploy.google.around import Around
from deploy.google.artifacts import Artifacts
from deploy.google.vertex import Vertex

__all__ = ["Google"]


class Google(Vertex, Artifacts, Around):
    """One project and region of Google Cloud, and everything that is done there."""
