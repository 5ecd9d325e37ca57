"""The image that the container tests build."""

from tests.container.conftest import image

__all__ = ["image"]
