"""The regions of Vertex AI."""

from google.cloud.aiplatform.constants import base


def list_regions() -> list[str]:
    """Return the regions that the SDK supports."""
    return sorted(base.SUPPORTED_REGIONS - {"global"})
