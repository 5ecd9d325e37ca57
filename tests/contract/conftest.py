"""The image, as the container tests build it."""

from tests.container.conftest import image

__all__ = ["image"]
