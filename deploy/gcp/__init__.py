"""Calls to Google's APIs for one project and region."""

from deploy.gcp.around import Around
from deploy.gcp.artifacts import Artifacts
from deploy.gcp.vertex import Vertex

__all__ = ["Google"]


class Google(Vertex, Artifacts, Around):
    """One project and region of Google Cloud, and everything that is done there."""
